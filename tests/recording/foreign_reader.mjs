// Prints what an independent MCAP reader (@mcap/core) finds in a file, as JSON. Arguments: the file, the folder that
// holds node_modules.
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const [file, modules] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const { McapIndexedReader } = require("@mcap/core");
const { loadDecompressHandlers } = require("@mcap/support");

const handle = await open(file, "r");
const readable = {
  size: async () => BigInt((await handle.stat()).size),
  read: async (offset, length) => {
    const buffer = new Uint8Array(Number(length));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, Number(offset));
    return buffer.subarray(0, bytesRead);
  },
};
const reader = await McapIndexedReader.Initialize({ readable, decompressHandlers: await loadDecompressHandlers() });

const messages = [];
for await (const message of reader.readMessages({ validateCrcs: true })) {
  const channel = reader.channelsById.get(message.channelId);
  messages.push({
    topic: channel.topic,
    sequence: message.sequence,
    log_time: message.logTime.toString(),
    publish_time: message.publishTime.toString(),
    sha256: createHash("sha256").update(message.data).digest("hex"),
    // An empty payload deletes a retained message.
    json: channel.messageEncoding === "json" && message.data.length > 0 ? JSON.parse(new TextDecoder().decode(message.data)) : null,
  });
}
const metadata = {};
for await (const record of reader.readMetadata()) {
  metadata[record.name] = Object.fromEntries(record.metadata);
}
const attachments = {};
for await (const record of reader.readAttachments({ validateCrcs: true })) {
  attachments[record.name] = { media_type: record.mediaType, sha256: createHash("sha256").update(record.data).digest("hex") };
}
await handle.close();

const channels = [...reader.channelsById.values()].map((channel) => ({
  topic: channel.topic,
  message_encoding: channel.messageEncoding,
  metadata: Object.fromEntries(channel.metadata),
  schema: reader.schemasById.get(channel.schemaId)?.name ?? null,
  messages: Number(reader.statistics.channelMessageCounts.get(channel.id) ?? 0n),
}));
const schemas = Object.fromEntries(
  [...reader.schemasById.values()].map((schema) => [
    schema.name,
    { encoding: schema.encoding, content: JSON.parse(new TextDecoder().decode(schema.data)) },
  ]),
);
const chunks = reader.chunkIndexes.map((chunk) => chunk.compression);
console.log(JSON.stringify({ profile: reader.header.profile, channels, schemas, messages, metadata, attachments, chunks }));
