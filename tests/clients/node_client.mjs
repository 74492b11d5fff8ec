// Reads {models, jobs} as JSON on stdin, writes the answers as JSON on stdout; asks no network.
import { readFileSync } from "node:fs";
import * as library from "@huggingface/transformers";
import { answer } from "./clip_client.js";

const { models, jobs } = JSON.parse(readFileSync(0, "utf8"));
library.env.allowRemoteModels = false;
library.env.localModelPath = models;
library.env.useFSCache = false;

/** Pixels of the job's photo as the client resizes it, and by Lanczos. */
async function resized({ model, photo }) {
  const { image_processor } = await library.AutoProcessor.from_pretrained(model);
  const image = new library.RawImage(new Uint8ClampedArray(photo.data), photo.size, photo.size, 3);
  const own = Array.from((await image_processor(image)).pixel_values.data);
  image_processor.resample = 1;
  return [own, Array.from((await image_processor(image)).pixel_values.data)];
}

const answers = [];
for (const job of jobs) {
  const found = await answer(library, { ...job, device: "cpu" });
  const tokenizer = await library.AutoTokenizer.from_pretrained(job.model);
  const { input_ids } = tokenizer([job.long], { truncation: true });
  answers.push({ ...found, long: Array.from(input_ids.data, Number), resized: await resized(job) });
}
process.stdout.write(JSON.stringify(answers));
