// receiver.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
const key = Buffer.from(process.env.WEBHOOK_SECRET.replace("whsec_", ""), "base64");
createServer(async (request, answer) => {
  const parts = [], of = request.headers;
  if (!(of["content-length"] < 1 << 20)) return answer.writeHead(413).end();
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts), head = `${of["webhook-id"]}.${of["webhook-timestamp"]}.`;
  const wanted = Buffer.from("v1," + createHmac("sha256", key).update(head).update(body).digest("base64"));
  const given = (of["webhook-signature"] ?? "").split(" ").map(one => Buffer.from(one));
  const genuine = given.some(one => one.length === wanted.length && timingSafeEqual(one, wanted));
  if (genuine) { const { type, data } = JSON.parse(body); console.log(type, data.stream, data.label); }
  answer.writeHead(genuine ? 204 : 401).end();
}).listen(8001, "127.0.0.1");
