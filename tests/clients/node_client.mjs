// Reads {models, jobs} as JSON on stdin, writes the answers as JSON on stdout; asks no network.
import { readFileSync } from "node:fs";
import * as library from "@huggingface/transformers";
import { answer } from "./clip_client.js";

const { models, jobs } = JSON.parse(readFileSync(0, "utf8"));
library.env.allowRemoteModels = false;
library.env.localModelPath = models;
library.env.useFSCache = false;
const answers = [];
for (const job of jobs) {
  const found = await answer(library, { ...job, device: "cpu" });
  const tokenizer = await library.AutoTokenizer.from_pretrained(job.model);
  const { input_ids } = tokenizer([job.long], { truncation: true });
  answers.push({ ...found, long: Array.from(input_ids.data, Number) });
}
process.stdout.write(JSON.stringify(answers));
