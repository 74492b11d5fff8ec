/* A bundle of tinyclip-edge in C: onnxruntime's C API, cJSON and stb_image.

     clip BUNDLE PICTURE LABEL LABEL…     the labels' probabilities
     clip BUNDLE --check                  the bundle's golden vectors; exit code 3 if they differ

   CLIP_PRECISION names another precision than the bundle's own. Texts are ASCII. */
#include "inputs.h"
#include <onnxruntime_c_api.h>
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

typedef struct {
  cJSON *manifest;
  Tokenizer tokenizer;
  Preprocess preprocess;
  OrtSession *image, *text;
  int width;
} Clip;

static const OrtApi *ort;
static OrtMemoryInfo *memory;

static void check(OrtStatus *status) {
  if (status) fail("onnxruntime: %.300s", ort->GetErrorMessage(status));
}

static OrtSession *open_tower(const char *folder, const Clip *clip, const char *tower, const char *precision) {
  static OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  if (!env) check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "clip", &env));
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));
  char *path = path_of(folder, text_of(get(get(get(clip->manifest, "towers"), tower), precision)));
  check(ort->CreateSession(env, path, options, &session));
  ort->ReleaseSessionOptions(options);
  free(path);
  return session;
}

static void open_bundle(Clip *clip, const char *folder) {
  clip->manifest = read_json(folder, "manifest.json");
  if (strcmp(text_of(get(clip->manifest, "format")), "tinyclip-edge-bundle")) fail("%s is no bundle", folder);
  number(get(clip->manifest, "format_version"), 1, 1);
  const cJSON *batch = cJSON_GetObjectItem(cJSON_GetObjectItem(clip->manifest, "inputs"), "batch");
  if (cJSON_IsNumber(batch)) number(batch, 1, 1);
  const char *precision = getenv("CLIP_PRECISION");
  if (!precision) precision = text_of(get(clip->manifest, "default_precision"));
  clip->width = (int)number(get(clip->manifest, "embedding_dim"), 1, 65536);
  read_tokenizer(&clip->tokenizer, read_json(folder, "tokenizer.json"), clip->manifest);
  cJSON *config = read_json(folder, "preprocessor_config.json");
  read_preprocess(&clip->preprocess, config);
  cJSON_Delete(config);
  clip->image = open_tower(folder, clip, "image", precision);
  clip->text = open_tower(folder, clip, "text", precision);
}

/* Run a tower on one input; return its embedding, unit norm. */
static float *run(const Clip *clip, OrtSession *tower, const char *input, const char *output, void *data,
                  size_t bytes, const int64_t *shape, size_t axes, ONNXTensorElementDataType type) {
  OrtValue *tensor, *result = NULL;
  float *row, *embedding = new_array(clip->width, sizeof(float)), norm = 0;
  check(ort->CreateTensorWithDataAsOrtValue(memory, data, bytes, shape, axes, type, &tensor));
  check(ort->Run(tower, NULL, &input, (const OrtValue *const *)&tensor, 1, &output, 1, &result));
  OrtTensorTypeAndShapeInfo *info;
  size_t count;
  check(ort->GetTensorTypeAndShape(result, &info));
  check(ort->GetTensorShapeElementCount(info, &count));
  if (count != (size_t)clip->width) fail("%s has %zu dimensions, the manifest says %d", output, count, clip->width);
  check(ort->GetTensorMutableData(result, (void **)&row));
  for (size_t i = 0; i < count; i++) norm += row[i] * row[i];
  if (!(norm > 0 && isfinite(norm))) fail("%s is not finite or is zero", output);
  for (size_t i = 0; i < count; i++) embedding[i] = row[i] / sqrtf(norm);
  ort->ReleaseTensorTypeAndShapeInfo(info);
  ort->ReleaseValue(result);
  ort->ReleaseValue(tensor);
  return embedding;
}

static float *encode_picture(const Clip *clip, const uint8_t *file, size_t bytes, const char *name) {
  int width, height, channels;
  if (!stbi_info_from_memory(file, (int)bytes, &width, &height, &channels) || (double)width * height > MAX_PIXELS)
    fail("%s is no PNG or JPEG, or has more than %d pixels", name, MAX_PIXELS);
  uint8_t *rgba = stbi_load_from_memory(file, (int)bytes, &width, &height, &channels, 4);
  if (!rgba) fail("%s cannot be decoded: %s", name, stbi_failure_reason());
  int64_t size = clip->preprocess.size, shape[] = {1, 3, size, size};
  float *pixels = preprocess(&clip->preprocess, rgba, width, height);
  float *embedding = run(clip, clip->image, "pixel_values", "image_embeds", pixels, sizeof(float) * 3 * size * size,
                         shape, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  free(pixels);
  stbi_image_free(rgba);
  return embedding;
}

/* Token ids as the text tower takes them; -1 for a text that this program cannot clean. */
static int token_ids(const Clip *clip, const char *text, int64_t *ids) {
  const cJSON *inputs = cJSON_GetObjectItem(clip->manifest, "inputs"), *padding = cJSON_GetObjectItem(inputs, "padding");
  int count = tokenize(&clip->tokenizer, text, ids);
  if (count > 0 && cJSON_IsString(padding) && !strcmp(padding->valuestring, "max_length"))
    while (count < clip->tokenizer.context) ids[count++] = (int64_t)number(get(inputs, "pad_id"), 0, 1e9);
  return count;
}

static float *encode_ids(const Clip *clip, int64_t *ids, int count) {
  int64_t shape[] = {1, count};
  return run(clip, clip->text, "input_ids", "text_embeds", ids, sizeof(int64_t) * count, shape, 2,
             ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
}

static double dot(const float *a, const float *b, int width) {
  double sum = 0;
  for (int i = 0; i < width; i++) sum += (double)a[i] * b[i];
  return sum;
}

static size_t from_base64(const char *text, uint8_t **bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  size_t count = 0, bits = 0;
  uint32_t word = 0;
  *bytes = new_array(strlen(text), 1);
  for (const char *digit; *text && *text != '=' && (digit = strchr(digits, *text)); text++) {
    word = word << 6 | (uint32_t)(digit - digits);
    if ((bits += 6) >= 8) (*bytes)[count++] = (uint8_t)(word >> (bits -= 8));
  }
  return count;
}

/* The lowest cosine of each tower to the recorded embeddings, as JSON; 3 if one is too low. */
static int replay(const Clip *clip) {
  const char *precision = getenv("CLIP_PRECISION"), *towers[] = {"image", "text"};
  if (!precision) precision = text_of(get(clip->manifest, "default_precision"));
  const cJSON *golden = get(clip->manifest, "golden"), *item, *rows = get(get(golden, "embeddings"), precision);
  const cJSON *given = cJSON_GetObjectItem(cJSON_GetObjectItem(golden, "least_cosine"), precision);
  double least = cJSON_IsNumber(given) ? given->valuedouble : 0.999, found[] = {1, 1};
  int same_ids = 1, skipped = 0;
  for (int tower = 0; tower < 2; tower++) {
    uint8_t *bytes, *png;
    int64_t *ids = new_array(clip->tokenizer.context + 1, sizeof(int64_t));
    size_t size = from_base64(text_of(get(rows, towers[tower])), &bytes), place = 0, row = sizeof(float) * clip->width;
    cJSON_ArrayForEach(item, get(golden, tower ? "texts" : "images")) {
      float *embedding;
      if ((place + 1) * row > size) fail("golden vectors of %s are too few", precision);
      if (tower) {
        int count = token_ids(clip, text_of(get(item, "text")), ids), position = 0;
        const cJSON *id, *recorded = get(item, "input_ids");
        if (cJSON_GetArraySize(recorded) > clip->tokenizer.context) fail("golden ids are too many");
        if (count < 0) skipped++;
        else if (count != cJSON_GetArraySize(recorded)) same_ids = 0;
        cJSON_ArrayForEach(id, recorded) {
          if (position < count && ids[position] != (int64_t)id->valuedouble) same_ids = 0;
          ids[position++] = (int64_t)id->valuedouble;
        }
        embedding = encode_ids(clip, ids, position);
      } else {
        size_t length = from_base64(text_of(get(item, "png")), &png);
        embedding = encode_picture(clip, png, length, "a golden picture");
        free(png);
      }
      double cosine = dot(embedding, (const float *)(bytes + place++ * row), clip->width);
      if (isnan(cosine) || cosine < found[tower]) found[tower] = cosine;
      free(embedding);
    }
    free(bytes);
    free(ids);
  }
  int passed = same_ids && found[0] >= least && found[1] >= least;
  printf("{\"precision\": \"%s\", \"image\": %.7f, \"text\": %.7f, \"least\": %g, \"same_ids\": %s, \"skipped_texts\": %d}\n",
         precision, found[0], found[1], least, same_ids ? "true" : "false", skipped);
  return passed ? 0 : 3;
}

static void classify(const Clip *clip, const char *picture, char **labels, int count) {
  size_t bytes;
  uint8_t *file = read_file(picture, &bytes);
  float *image = encode_picture(clip, file, bytes, picture);
  double *logits = new_array(count, sizeof(double)), most = -INFINITY, sum = 0;
  const cJSON *bias = cJSON_GetObjectItem(clip->manifest, "logit_bias");
  int64_t *ids = new_array(clip->tokenizer.context + 1, sizeof(int64_t));
  for (int i = 0; i < count; i++) {
    int tokens = token_ids(clip, labels[i], ids);
    if (tokens < 0) fail("label %s: this program reads ASCII without & only", labels[i]);
    float *text = encode_ids(clip, ids, tokens);
    logits[i] = number(get(clip->manifest, "logit_scale"), 0, 1e6) * dot(image, text, clip->width);
    if (logits[i] > most) most = logits[i];
    free(text);
  }
  for (int i = 0; i < count; i++) sum += exp(logits[i] - most);
  for (int i = 0; i < count; i++) {
    double chance = cJSON_IsNumber(bias) ? 1 / (1 + exp(-logits[i] - bias->valuedouble)) : exp(logits[i] - most) / sum;
    printf("%5.1f %%  %s\n", 100 * chance, labels[i]);
  }
}

int main(int count, char **words) {
  Clip clip = {0};
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) fail("this onnxruntime is older than its header");
  int checks = count == 3 && !strcmp(words[2], "--check");
  if (!checks && count < 4) fail("usage: clip BUNDLE PICTURE LABEL…, or clip BUNDLE --check");
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  open_bundle(&clip, words[1]);
  if (checks) return replay(&clip);
  classify(&clip, words[2], words + 3, count - 3);
  return 0;
}
