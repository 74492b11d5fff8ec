/* A bundle of tinyclip-edge in C: onnxruntime's C API, cJSON and stb_image.

     clip BUNDLE PICTURE LABEL LABEL…     the labels' probabilities
     clip BUNDLE --check                  the bundle's golden vectors; exit code 3 if they differ

   The bundle must come from `export --embed-tokenizer --embed-preprocessing`, whose graphs take texts and decoded
   pictures. CLIP_PRECISION selects a precision other than the bundle's default; ORT_EXTENSIONS is the path of the
   onnxruntime-extensions library. */
#include <cjson/cJSON.h>
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

enum { MAX_FILE = 1 << 28, MAX_PIXELS = 89478485, MAX_ASPECT = 1000 };

typedef struct {
  const char *folder, *precision;
  cJSON *manifest;
  OrtSession *image, *text;
  int width;
} Clip;

static const OrtApi *ort;
static OrtEnv *env;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("error: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  exit(2);
}

static void check(OrtStatus *status) {
  if (status) fail("onnxruntime: %.300s", ort->GetErrorMessage(status));
}

static void *new_array(size_t count, size_t size) {
  void *made = calloc(count ? count : 1, size);
  if (!made) fail("out of memory");
  return made;
}

/* Files and JSON */

static char *path_of(const char *folder, const char *name) {
  if (name[0] == '/' || strstr(name, "..") || strchr(name, '\\')) fail("%s is outside the bundle", name);
  char *path = new_array(strlen(folder) + strlen(name) + 2, 1);
  sprintf(path, "%s/%s", folder, name);
  return path;
}

/* The bytes of a file, followed by a zero. */
static uint8_t *read_file(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  long size = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
  if (size < 0 || size > MAX_FILE) fail("%s cannot be read, or is too large", path);
  rewind(file);
  uint8_t *content = new_array(size + 1, 1);
  if (fread(content, 1, size, file) != (size_t)size) fail("%s cannot be read", path);
  fclose(file);
  *bytes = size;
  return content;
}

static cJSON *read_json(const char *folder, const char *name) {
  size_t bytes;
  char *path = path_of(folder, name), *text = (char *)read_file(path, &bytes);
  cJSON *json = cJSON_Parse(text);
  if (!json) fail("%s is not JSON", path);
  free(text);
  free(path);
  return json;
}

static cJSON *get(const cJSON *table, const char *key) {
  cJSON *value = cJSON_GetObjectItemCaseSensitive(table, key);
  if (!value) fail("key \"%s\" is missing", key);
  return value;
}

static const char *text_of(const cJSON *value) {
  if (!cJSON_IsString(value)) fail("%s is not text", value && value->string ? value->string : "an entry");
  return value->valuestring;
}

static double number(const cJSON *value, double least, double most) {
  if (!cJSON_IsNumber(value) || !(value->valuedouble >= least && value->valuedouble <= most))
    fail("%s is not a number from %g to %g", value && value->string ? value->string : "an entry", least, most);
  return value->valuedouble;
}

/* Graphs */

static OrtSession *open_graph(const Clip *clip, const char *form, int with_extensions) {
  const cJSON *extra = cJSON_GetObjectItem(cJSON_GetObjectItem(clip->manifest, "extras"), form);
  if (!extra) fail("%s has no \"%s\": use export --embed-tokenizer --embed-preprocessing", clip->folder, form);
  OrtSessionOptions *options;
  OrtSession *session;
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));
  const char *library = getenv("ORT_EXTENSIONS");
  if (with_extensions) check(ort->RegisterCustomOpsLibrary_V2(options, library ? library : "libortextensions.so"));
  char *path = path_of(clip->folder, text_of(get(get(extra, "files"), clip->precision)));
  check(ort->CreateSession(env, path, options, &session));
  ort->ReleaseSessionOptions(options);
  free(path);
  return session;
}

static void open_bundle(Clip *clip, const char *folder) {
  clip->folder = folder;
  clip->manifest = read_json(folder, "manifest.json");
  if (strcmp(text_of(get(clip->manifest, "format")), "tinyclip-edge-bundle")) fail("%s is not a bundle", folder);
  number(get(clip->manifest, "format_version"), 1, 1);
  clip->precision = getenv("CLIP_PRECISION");
  if (!clip->precision) clip->precision = text_of(get(clip->manifest, "default_precision"));
  clip->width = (int)number(get(clip->manifest, "embedding_dim"), 1, 65536);
  clip->text = open_graph(clip, "strings", 1);
  clip->image = open_graph(clip, "uint8", 0);
}

/* Run a graph on one input, which is then released; sets the output's data and number of elements. */
static OrtValue *run(OrtSession *graph, const char *name, OrtValue *input, const char *output, void **data, size_t *count) {
  OrtValue *result = NULL;
  OrtTensorTypeAndShapeInfo *info;
  check(ort->Run(graph, NULL, &name, (const OrtValue *const *)&input, 1, &output, 1, &result));
  check(ort->GetTensorTypeAndShape(result, &info));
  check(ort->GetTensorShapeElementCount(info, count));
  check(ort->GetTensorMutableData(result, data));
  ort->ReleaseTensorTypeAndShapeInfo(info);
  ort->ReleaseValue(input);
  return result;
}

/* The one row that a graph returns, unit norm. */
static float *embed(const Clip *clip, OrtSession *graph, const char *name, OrtValue *input, const char *output) {
  float *row, *embedding = new_array(clip->width, sizeof(float)), norm = 0;
  size_t count;
  OrtValue *result = run(graph, name, input, output, (void **)&row, &count);
  if (count != (size_t)clip->width) fail("%s has %zu dimensions, the manifest says %d", output, count, clip->width);
  for (size_t i = 0; i < count; i++) norm += row[i] * row[i];
  if (!(norm > 0 && isfinite(norm))) fail("%s is not finite or is zero", output);
  for (size_t i = 0; i < count; i++) embedding[i] = row[i] / sqrtf(norm);
  ort->ReleaseValue(result);
  return embedding;
}

static OrtValue *new_tensor(const int64_t *shape, size_t axes, ONNXTensorElementDataType type) {
  OrtAllocator *allocator;
  OrtValue *tensor;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->CreateTensorAsOrtValue(allocator, shape, axes, type, &tensor));
  return tensor;
}

static OrtValue *string_tensor(const char *text) {
  OrtValue *tensor = new_tensor((int64_t[]){1}, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING);
  check(ort->FillStringTensor(tensor, &text, 1));
  return tensor;
}

static float *encode_text(const Clip *clip, const char *text) {
  return embed(clip, clip->text, "text", string_tensor(text), "text_embeds");
}

/* Embed a picture file, decoded to RGB with transparency on white. */
static float *encode_picture(const Clip *clip, const char *path) {
  size_t bytes;
  uint8_t *file = read_file(path, &bytes), *rgb;
  int width, height, channels;
  if (!stbi_info_from_memory(file, (int)bytes, &width, &height, &channels) || (double)width * height > MAX_PIXELS)
    fail("%s is not a PNG or JPEG, or has more than %d pixels", path, MAX_PIXELS);
  if (width > (double)MAX_ASPECT * height || height > (double)MAX_ASPECT * width) fail("%s is too long and thin", path);
  uint8_t *rgba = stbi_load_from_memory(file, (int)bytes, &width, &height, &channels, 4);
  if (!rgba) fail("%s cannot be decoded: %s", path, stbi_failure_reason());
  OrtValue *tensor = new_tensor((int64_t[]){height, width, 3}, 3, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
  check(ort->GetTensorMutableData(tensor, (void **)&rgb));
  for (size_t i = 0; i < (size_t)width * height; i++)
    for (int c = 0, alpha = rgba[4 * i + 3]; c < 3; c++)
      rgb[3 * i + c] = (uint8_t)((rgba[4 * i + c] * alpha + 255 * (255 - alpha) + 127) / 255);
  stbi_image_free(rgba);
  free(file);
  return embed(clip, clip->image, "image", tensor, "image_embeds");
}

static double cosine(const Clip *clip, const float *a, const float *b) {
  double sum = 0;
  for (int i = 0; i < clip->width; i++) sum += (double)a[i] * b[i];
  return sum;
}

/* Golden vectors, and labels */

/* The cosine of an embedding, which is freed, to a recorded one. */
static double recorded_cosine(const Clip *clip, float *embedding, const cJSON *row) {
  double sum = 0;
  int place = 0;
  const cJSON *value;
  if (cJSON_GetArraySize(row) != clip->width) fail("a golden vector does not have %d dimensions", clip->width);
  cJSON_ArrayForEach(value, row) sum += embedding[place++] * number(value, -1, 1);
  free(embedding);
  return sum;
}

static int same_ids(const Clip *clip, const char *text, const cJSON *recorded) {
  int64_t *ids;
  size_t count;
  OrtValue *result = run(clip->text, "text", string_tensor(text), "input_ids", (void **)&ids, &count);
  int same = count == (size_t)cJSON_GetArraySize(recorded);
  const cJSON *id = recorded->child;
  for (size_t i = 0; same && i < count; i++, id = id->next) same = ids[i] == (int64_t)number(id, 0, 1e9);
  ort->ReleaseValue(result);
  return same;
}

/* Print each tower's lowest cosine to the golden vectors as JSON; return 3 if one is too low or token ids differ. */
static int replay(const Clip *clip) {
  cJSON *golden = read_json(clip->folder, "golden/vectors.json");
  const cJSON *bounds = get(get(golden, "least_cosine"), clip->precision);
  const cJSON *rows = get(get(golden, "embeddings"), clip->precision), *item, *row = get(rows, "text")->child;
  double text = 1, image = 1;
  int same = 1;
  cJSON_ArrayForEach(item, get(golden, "texts")) {
    const char *words = text_of(get(item, "text"));
    same &= same_ids(clip, words, get(item, "input_ids"));
    text = fmin(text, recorded_cosine(clip, encode_text(clip, words), row));
    row = row ? row->next : NULL;
  }
  row = get(rows, "image")->child;
  cJSON_ArrayForEach(item, get(golden, "pictures")) {
    char *folder = path_of(clip->folder, "golden"), *path = path_of(folder, text_of(item));
    image = fmin(image, recorded_cosine(clip, encode_picture(clip, path), row));
    row = row ? row->next : NULL;
    free(folder);
    free(path);
  }
  int passed = same && text >= number(get(bounds, "text"), 0, 1) && image >= number(get(bounds, "image"), 0, 1);
  printf("{\"precision\": \"%s\", \"image\": %.7f, \"text\": %.7f, \"same_ids\": %s}\n", clip->precision, image, text,
         same ? "true" : "false");
  return passed ? 0 : 3;
}

static void classify(const Clip *clip, const char *picture, char **labels, int count) {
  float *image = encode_picture(clip, picture);
  double *logits = new_array(count, sizeof(double)), most = -INFINITY, sum = 0;
  const cJSON *bias = cJSON_GetObjectItem(clip->manifest, "logit_bias");
  for (int i = 0; i < count; i++) {
    float *text = encode_text(clip, labels[i]);
    logits[i] = number(get(clip->manifest, "logit_scale"), 0, 1e6) * cosine(clip, image, text);
    most = fmax(most, logits[i]);
    free(text);
  }
  for (int i = 0; i < count; i++) sum += exp(logits[i] - most);
  for (int i = 0; i < count; i++) {
    double chance = cJSON_IsNumber(bias) ? 1 / (1 + exp(-logits[i] - bias->valuedouble)) : exp(logits[i] - most) / sum;
    printf("%5.1f %%  %s\n", 100 * chance, labels[i]);
  }
  free(logits);
  free(image);
}

int main(int count, char **words) {
  Clip clip = {0};
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) fail("this onnxruntime is older than its header");
  int checks = count == 3 && !strcmp(words[2], "--check");
  if (!checks && count < 4) fail("usage: clip BUNDLE PICTURE LABEL…, or clip BUNDLE --check");
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "clip", &env));
  open_bundle(&clip, words[1]);
  if (checks) return replay(&clip);
  classify(&clip, words[2], words + 3, count - 3);
  return 0;
}
