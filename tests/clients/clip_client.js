// What a transformers.js user does with a bundle; the same in Node and in a browser.

const rows = (tensor) => tensor.tolist();

/**
 * Open a bundle three ways and answer `job`:
 * {model, dtype, size, pixels, texts, image, labels, pipeline_options}.
 */
export async function answer(library, job) {
  const { AutoTokenizer, RawImage, Tensor, pipeline } = library;
  const { CLIPTextModelWithProjection, CLIPVisionModelWithProjection } = library;
  const options = { dtype: job.dtype, device: job.device };
  const tokenizer = await AutoTokenizer.from_pretrained(job.model);
  const text = await CLIPTextModelWithProjection.from_pretrained(job.model, options);
  const vision = await CLIPVisionModelWithProjection.from_pretrained(job.model, options);

  const ids = [], text_embeds = [], image_embeds = [];
  for (const words of job.texts) {
    const inputs = tokenizer([words], { truncation: true });
    ids.push(Array.from(inputs.input_ids.data, Number));
    text_embeds.push(rows((await text(inputs)).text_embeds)[0]);
  }
  const shape = [1, 3, job.size, job.size];
  for (const pixels of job.pixels) {
    const pixel_values = new Tensor("float32", new Float32Array(pixels), shape);
    image_embeds.push(rows((await vision({ pixel_values })).image_embeds)[0]);
  }

  const classify = await pipeline("zero-shot-image-classification", job.model, {
    ...options,
    ...job.pipeline_options,
  });
  const image = new RawImage(new Uint8ClampedArray(job.image), job.size, job.size, 3);
  const scores = await classify(image, job.labels, { hypothesis_template: "{}" });
  return { ids, text_embeds, image_embeds, scores };
}
