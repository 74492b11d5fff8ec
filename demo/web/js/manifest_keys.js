// Written by docs/generate.py from tinyclip_edge/runtime/manifest_keys.py.

export const FORMAT = "tinyclip-edge-bundle";

export const FORMAT_VERSION = 1;

export const CONFIG_FILES = [
  "preprocessor_config.json",
  "tokenizer.json"
];

export const KEYS = [
  {
    "key": "created_by",
    "kind": "text",
    "description": "tinyclip-edge and its version."
  },
  {
    "key": "name",
    "kind": "text",
    "description": "Name of the model."
  },
  {
    "key": "source",
    "kind": "an object",
    "description": "`model` and `sha256` of the weights that were exported."
  },
  {
    "key": "model_hash",
    "kind": "text",
    "description": "SHA-256 of the weights of both towers."
  },
  {
    "key": "image_size",
    "kind": "a whole number",
    "description": "Pixels, square.",
    "minimum": 1,
    "maximum": 1048576
  },
  {
    "key": "embedding_dim",
    "kind": "a whole number",
    "description": "Length of an embedding.",
    "minimum": 1,
    "maximum": 1048576
  },
  {
    "key": "context_length",
    "kind": "a whole number",
    "description": "Largest number of tokens in a text, including start and end.",
    "minimum": 2,
    "maximum": 1048576
  },
  {
    "key": "logit_scale",
    "kind": "a number",
    "description": "Factor on cosine similarities before softmax or sigmoid.",
    "above": 0,
    "maximum": 1048576
  },
  {
    "key": "logit_bias",
    "kind": "a number",
    "description": "Added to logits if each label is scored independently (SigLIP); null: softmax.",
    "required": false,
    "minimum": -1048576,
    "maximum": 1048576
  },
  {
    "key": "eot_token_id",
    "kind": "a whole number",
    "description": "Token that ends a text."
  },
  {
    "key": "parameters",
    "kind": "an object",
    "description": "Number of parameters of each part."
  },
  {
    "key": "parameters.image",
    "kind": "a whole number",
    "description": "Of the image tower."
  },
  {
    "key": "parameters.text",
    "kind": "a whole number",
    "description": "Of the text tower, without the token table."
  },
  {
    "key": "parameters.token_embedding",
    "kind": "a whole number",
    "description": "Of the token table."
  },
  {
    "key": "default_precision",
    "kind": "text",
    "description": "Precision to load by default."
  },
  {
    "key": "towers",
    "kind": "an object",
    "description": "Paths of the ONNX files by tower and precision."
  },
  {
    "key": "towers.image",
    "kind": "an object",
    "description": "Paths of the image tower by precision."
  },
  {
    "key": "towers.text",
    "kind": "an object",
    "description": "Paths of the text tower by precision."
  },
  {
    "key": "towers.*.*",
    "kind": "text",
    "description": "Path of one ONNX file, relative to the bundle."
  },
  {
    "key": "files",
    "kind": "an object",
    "description": "Every file of the bundle except this one, by relative path."
  },
  {
    "key": "files.*",
    "kind": "an object",
    "description": "One file."
  },
  {
    "key": "files.*.sha256",
    "kind": "text",
    "description": "SHA-256 of its bytes, in hex."
  },
  {
    "key": "files.*.bytes",
    "kind": "a whole number",
    "description": "Its size in bytes.",
    "minimum": 0
  },
  {
    "key": "recipe",
    "kind": "an object",
    "description": "How each precision was made.",
    "required": false
  },
  {
    "key": "recipe.*",
    "kind": "an object",
    "description": "Settings of one precision.",
    "required": false
  },
  {
    "key": "verification",
    "kind": "an object",
    "description": "Results of the comparison with PyTorch during the export.",
    "required": false
  },
  {
    "key": "golden",
    "kind": "an object",
    "description": "Inputs and embeddings that `check` replays.",
    "required": false
  },
  {
    "key": "extras",
    "kind": "an object",
    "description": "Files in addition to the towers: classifier, towers of pictures and strings, layouts.",
    "required": false
  },
  {
    "key": "target",
    "kind": "an object",
    "description": "What platform the bundle was made for.",
    "required": false
  },
  {
    "key": "target.name",
    "kind": "text",
    "description": "Name of the export target.",
    "required": false
  },
  {
    "key": "target.onnxruntime",
    "kind": "text",
    "description": "Version that wrote .ort files; an older one may refuse them.",
    "required": false
  },
  {
    "key": "target.operators",
    "kind": "text",
    "description": "List of the operators and types that a reduced build of onnxruntime needs.",
    "required": false
  },
  {
    "key": "tokenizer",
    "kind": "an object",
    "description": "Settings of a tokenizer other than CLIP's.",
    "required": false
  },
  {
    "key": "matryoshka",
    "kind": "an object",
    "description": "`dimensions`: lengths of prefixes of an embedding that the model was trained for, besides the full one.",
    "required": false
  },
  {
    "key": "familiarity",
    "kind": "an object",
    "description": "Data that distinguishes pictures like the training's from others; absent: unknown.",
    "required": false
  },
  {
    "key": "familiarity.embedding",
    "kind": "an object",
    "description": "Directions in which the training's image embeddings vary least: `mean` (base64 of float32), `directions` (base64 of int8), and `scales` of the directions, which include division by the deviation.",
    "required": false
  },
  {
    "key": "familiarity.looks",
    "kind": "an object",
    "description": "The same for border, flat area and detail of preprocessed pictures, with `quantiles` of the squared distance of the verification's pictures.",
    "required": false
  },
  {
    "key": "familiarity.precisions",
    "kind": "an object",
    "description": "By precision.",
    "required": false
  },
  {
    "key": "familiarity.precisions.*",
    "kind": "an object",
    "description": "`quantiles` of the squared distance of the embeddings.",
    "required": false
  },
  {
    "key": "familiarity.precisions.*.threshold",
    "kind": "a number",
    "description": "A picture is unfamiliar if the larger of its two p-values is below this, as for 1 % of the verification's pictures.",
    "required": false,
    "minimum": 0,
    "maximum": 1
  },
  {
    "key": "confidence",
    "kind": "an object",
    "description": "Calibration of probabilities on held-out pictures: `labels`, their prompt `templates`, number of `images`; absent: not calibrated.",
    "required": false
  },
  {
    "key": "confidence.labelled_by",
    "kind": "text",
    "description": "`folders`, or the model whose labels count as right.",
    "required": false
  },
  {
    "key": "confidence.coverage",
    "kind": "a number",
    "description": "Share of the right answers that a threshold accepts.",
    "required": false,
    "minimum": 0,
    "maximum": 1
  },
  {
    "key": "confidence.precisions",
    "kind": "an object",
    "description": "By precision.",
    "required": false
  },
  {
    "key": "confidence.precisions.*",
    "kind": "an object",
    "description": "`accuracy`, and the shares of right and wrong answers that the threshold accepts, `right_answered` and `wrong_answered`.",
    "required": false
  },
  {
    "key": "confidence.precisions.*.temperature",
    "kind": "a number",
    "description": "Logits are divided by it before softmax or sigmoid.",
    "required": false,
    "above": 0,
    "maximum": 1048576
  },
  {
    "key": "confidence.precisions.*.threshold",
    "kind": "a number",
    "description": "A picture is unknown if its best probability at the temperature is below this.",
    "required": false,
    "minimum": 0,
    "maximum": 1
  },
  {
    "key": "confidence.precisions.*.ece_before",
    "kind": "a number",
    "description": "Expected calibration error at temperature 1, over 15 bins.",
    "required": false,
    "minimum": 0,
    "maximum": 1
  },
  {
    "key": "confidence.precisions.*.ece_after",
    "kind": "a number",
    "description": "The same at the temperature: each half of the pictures at the one fitted to the other half.",
    "required": false,
    "minimum": 0,
    "maximum": 1
  },
  {
    "key": "inputs",
    "kind": "an object",
    "description": "Fixed shapes of the towers' inputs.",
    "required": false
  },
  {
    "key": "inputs.batch",
    "kind": "a whole number",
    "description": "Fixed batch size of the towers.",
    "required": false,
    "minimum": 1,
    "maximum": 1048576
  },
  {
    "key": "inputs.pad_id",
    "kind": "a whole number",
    "description": "Token that pads texts.",
    "required": false,
    "minimum": 0,
    "maximum": 1048576
  },
  {
    "key": "inputs.ids",
    "kind": "text",
    "description": "Type of token ids; absent: int64.",
    "required": false,
    "choices": [
      "int64",
      "int32"
    ]
  },
  {
    "key": "inputs.padding",
    "kind": "text",
    "description": "Whether texts are padded to the context length.",
    "required": false,
    "choices": [
      "none",
      "max_length"
    ]
  }
];
