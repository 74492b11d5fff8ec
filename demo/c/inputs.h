/* What stands before the towers: reading JSON, CLIP's tokenizer, Pillow's resize. */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 1000, MAX_FILE = 1 << 28, MAX_PIXELS = 89478485, BITS = 22 };
typedef struct { const char *key; int64_t value; } Entry;
typedef struct { Entry *rows; size_t count; } Table;
typedef struct {
  Table vocabulary, ranks;
  const char *suffix;
  int64_t start, end, unknown;
  int context;
} Tokenizer;
typedef struct { int size, squash, cubic; float levels[3][256]; } Preprocess;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("error: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  exit(2);
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

/* The bytes of a file, and a zero behind them. */
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

/* Tokenizer: CLIP's byte pairs */

static int by_key(const void *a, const void *b) { return strcmp(((const Entry *)a)->key, ((const Entry *)b)->key); }

static int64_t find(const Table *table, const char *key) {
  Entry wanted = {key, 0}, *entry = bsearch(&wanted, table->rows, table->count, sizeof(Entry), by_key);
  return entry ? entry->value : -1;
}

static void read_tokenizer(Tokenizer *clip, const cJSON *file, const cJSON *manifest) {
  const cJSON *model = get(file, "model"), *item, *tokens = get(file, "added_tokens");
  clip->suffix = text_of(get(model, "end_of_word_suffix"));
  if (strcmp(clip->suffix, "</w>") || get(manifest, "tokenizer")->child)
    fail("the tokenizer is not CLIP's: use EdgeCLIP in Python");
  Table *vocabulary = &clip->vocabulary, *ranks = &clip->ranks;
  size_t most = cJSON_GetArraySize(get(model, "vocab")) + cJSON_GetArraySize(tokens);
  vocabulary->rows = new_array(most, sizeof(Entry));
  ranks->rows = new_array(cJSON_GetArraySize(get(model, "merges")), sizeof(Entry));
  cJSON_ArrayForEach(item, get(model, "vocab"))
    vocabulary->rows[vocabulary->count++] = (Entry){item->string, (int64_t)number(item, 0, 1e9)};
  qsort(vocabulary->rows, vocabulary->count, sizeof(Entry), by_key);
  Table plain = *vocabulary; /* without the added tokens, most of which are in it */
  cJSON_ArrayForEach(item, tokens) {
    const char *token = text_of(get(item, "content"));
    if (find(&plain, token) < 0)
      vocabulary->rows[vocabulary->count++] = (Entry){token, (int64_t)number(get(item, "id"), 0, 1e9)};
  }
  cJSON_ArrayForEach(item, get(model, "merges")) {
    const char *pair = item->valuestring;
    if (!pair) {
      const char *left = text_of(cJSON_GetArrayItem(item, 0)), *right = text_of(cJSON_GetArrayItem(item, 1));
      char *joined = new_array(strlen(left) + strlen(right) + 2, 1);
      sprintf(joined, "%s %s", left, right);
      pair = joined;
    }
    ranks->rows[ranks->count] = (Entry){pair, (int64_t)ranks->count};
    ranks->count++;
  }
  qsort(vocabulary->rows, vocabulary->count, sizeof(Entry), by_key);
  qsort(ranks->rows, ranks->count, sizeof(Entry), by_key);
  clip->start = find(vocabulary, "<|startoftext|>");
  if (clip->start < 0) clip->start = find(vocabulary, "<start_of_text>");
  const cJSON *unknown = get(model, "unk_token");
  clip->unknown = cJSON_IsString(unknown) ? find(vocabulary, unknown->valuestring) : -1;
  clip->context = (int)number(get(manifest, "context_length"), 2, 1000);
  clip->end = (int64_t)number(get(manifest, "eot_token_id"), 0, 1e9);
}

/* Append the ids of one word; return their new number. */
static int add_word(const Tokenizer *clip, const char *word, size_t length, int64_t *ids, int count) {
  static char pieces[MAX_TEXT + 1][MAX_TEXT + 8], pair[2 * MAX_TEXT + 20] = "";
  int many = (int)length;
  for (int i = 0; i < many; i++) sprintf(pieces[i], "%c%s", word[i], i + 1 == many ? clip->suffix : "");
  for (;;) { /* the pair of lowest rank, leftmost first, until none remains */
    int64_t best = INT64_MAX;
    int place = -1;
    for (int i = 0; i + 1 < many; i++) {
      snprintf(pair, sizeof(pair), "%.1007s %.1007s", pieces[i], pieces[i + 1]);
      int64_t rank = find(&clip->ranks, pair);
      if (rank >= 0 && rank < best) best = rank, place = i;
    }
    if (place < 0) break;
    snprintf(pair, sizeof(pair), "%.1007s%.1007s", pieces[place], pieces[place + 1]);
    memcpy(pieces[place], pair, strlen(pair) + 1);
    memmove(pieces[place + 1], pieces[place + 2], sizeof(pieces[0]) * (size_t)(--many - place - 1));
  }
  for (int i = 0; i < many && count < clip->context - 1; i++) {
    int64_t id = find(&clip->vocabulary, pieces[i]);
    if (id < 0) id = clip->unknown;
    if (id >= 0) ids[count++] = id;
  }
  return count;
}

/* Token ids of a text, start and end included; -1 for a text that this program cannot clean. */
static int tokenize(const Tokenizer *clip, const char *text, int64_t *ids) {
  static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  char lower[MAX_TEXT + 1];
  size_t length = strlen(text);
  if (length > MAX_TEXT || strchr(text, '&')) return -1;
  for (size_t i = 0; i <= length; i++) {
    if ((unsigned char)text[i] > 126 || (iscntrl((unsigned char)text[i]) && !isspace((unsigned char)text[i]) && text[i])) return -1;
    lower[i] = (char)tolower((unsigned char)text[i]);
  }
  int count = 0;
  ids[count++] = clip->start;
  for (char *at = lower; *at && count < clip->context - 1;) {
    size_t word = 0;
    for (int i = 0; i < 7 && !word; i++)
      if (!strncmp(at, contractions[i], strlen(contractions[i]))) word = strlen(contractions[i]);
    if (!word && isalpha((unsigned char)*at)) while (isalpha((unsigned char)at[word])) word++;
    else if (!word && isdigit((unsigned char)*at)) word = 1;
    else if (!word) while (ispunct((unsigned char)at[word])) word++;
    if (word) count = add_word(clip, at, word, ids, count);
    at += word ? word : 1; /* blanks */
  }
  ids[count++] = clip->end;
  return count;
}

/* Preprocessing: Pillow's resize, bit for bit */

static void read_preprocess(Preprocess *made, const cJSON *config) {
  const cJSON *crop = cJSON_GetObjectItem(config, "do_center_crop"), *size = get(config, "size");
  const cJSON *target = cJSON_IsFalse(crop) ? size : get(config, "crop_size"), *mode = cJSON_GetObjectItem(config, "resize_mode");
  const cJSON *edge = cJSON_GetObjectItem(size, "shortest_edge");
  if (cJSON_GetObjectItem(target, "height")) target = get(target, "height");
  else if (cJSON_IsObject(target)) target = get(target, "shortest_edge");
  made->size = (int)number(target, 1, 4096);
  made->squash = cJSON_IsString(mode) ? !strcmp(mode->valuestring, "squash") : !edge && !cJSON_IsNumber(size);
  if (cJSON_IsString(mode) && !made->squash && strcmp(mode->valuestring, "shortest")) fail("resize_mode %s", mode->valuestring);
  made->cubic = (int)number(get(config, "resample"), 2, 3) == 3;
  for (int c = 0; c < 3; c++) {
    float mean = (float)number(cJSON_GetArrayItem(get(config, "image_mean"), c), -1e3, 1e3);
    float std = (float)number(cJSON_GetArrayItem(get(config, "image_std"), c), 1e-6, 1e3);
    for (int i = 0; i < 256; i++) made->levels[c][i] = ((float)(i / 255.0) - mean) / std;
  }
}

static double weight(double x, int cubic) {
  x = fabs(x);
  if (!cubic) return x < 1 ? 1 - x : 0;
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/* Resize the middle axis of bytes [outer, n, inner] to `to`; free the input. */
static uint8_t *resize(uint8_t *in, size_t outer, int n, int to, size_t inner, int cubic) {
  if (n == to) return in;
  double scale = (double)n / to, stretch = scale < 1 ? 1 : scale, reach = (cubic ? 2 : 1) * stretch;
  double *row = new_array((size_t)(2 * reach) + 3, sizeof(double));
  uint8_t *out = new_array(outer * to * inner, 1);
  for (int i = 0; i < to; i++) {
    double centre = (i + 0.5) * scale, sum = 0;
    int start = centre - reach + 0.5 < 0 ? 0 : (int)(centre - reach + 0.5);
    int end = centre + reach + 0.5 > n ? n : (int)(centre + reach + 0.5);
    for (int j = start; j < end; j++) sum += row[j - start] = weight((j - centre + 0.5) * (1 / stretch), cubic);
    for (int j = 0; j < end - start; j++) {
      double whole = (sum ? row[j] / sum : row[j]) * (1 << BITS);
      row[j] = trunc(whole + (whole < 0 ? -0.5 : 0.5));
    }
    for (size_t o = 0; o < outer; o++)
      for (size_t x = 0; x < inner; x++) {
        int64_t total = 1 << (BITS - 1);
        for (int j = start; j < end; j++) total += in[(o * n + j) * inner + x] * (int64_t)row[j - start];
        total >>= BITS;
        out[(o * to + i) * inner + x] = (uint8_t)(total < 0 ? 0 : total > 255 ? 255 : total);
      }
  }
  free(row);
  free(in);
  return out;
}

/* Floats [3, size, size] of decoded RGBA bytes, transparency on white. */
static float *preprocess(const Preprocess *to, const uint8_t *rgba, int width, int height) {
  int size = to->size, wide = size, high = size;
  uint8_t *rgb = new_array((size_t)width * height, 3);
  for (size_t i = 0; i < (size_t)width * height; i++)
    for (int c = 0; c < 3; c++) rgb[3 * i + c] = (uint8_t)((rgba[4 * i + c] * rgba[4 * i + 3] + 255 * (255 - rgba[4 * i + 3]) + 127) / 255);
  if (!to->squash && width <= height) high = (int)((double)size * height / width);
  else if (!to->squash) wide = (int)((double)size * width / height);
  if ((double)wide * high > MAX_PIXELS) fail("the picture is too long and thin");
  int thin = height > 100.0 * width && high < height; /* where Pillow resizes columns first */
  if (thin) rgb = resize(rgb, 1, height, high, 3 * (size_t)width, to->cubic);
  rgb = resize(rgb, thin ? high : height, width, wide, 3, to->cubic);
  if (!thin) rgb = resize(rgb, 1, height, high, 3 * (size_t)wide, to->cubic);
  int left = (int)nearbyint((wide - size) / 2.0), top = (int)nearbyint((high - size) / 2.0);
  float *pixels = new_array((size_t)3 * size * size, sizeof(float));
  for (int c = 0; c < 3; c++)
    for (int y = 0; y < size; y++)
      for (int x = 0; x < size; x++)
        pixels[((size_t)c * size + y) * size + x] = to->levels[c][rgb[3 * ((size_t)(y + top) * wide + x + left) + c]];
  free(rgb);
  return pixels;
}
