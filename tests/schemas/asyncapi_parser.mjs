// The official parser on an AsyncAPI document: asyncapi_parser.mjs DOCUMENT FOLDER_WITH_NODE_MODULES
// Prints its diagnostics and what it has read, as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , path, folder] = process.argv;
const { Parser } = createRequire(join(folder, "node_modules", "x.js"))("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
const read = document && {
  version: document.version(),
  channels: document.channels().all().map((channel) => channel.address()),
  operations: document.operations().all().map((operation) => operation.id()),
  messages: document.components().messages().all().map((message) => message.id()),
};
const problems = diagnostics.map(({ severity, code, message, path }) => ({ severity, code, message, path }));
console.log(JSON.stringify({ read: read ?? null, diagnostics: problems }));
