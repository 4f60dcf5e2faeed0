// What the page asks of the service, and the service's errors in its own words. Renders nothing.

import { read, write } from "./store.js";

const STORE = "hguard.key";
let current = read("sessionStorage", STORE) ?? "";
let askKey = async () => null; // set by key.js

export const key = {
  get: () => current,
  set: (value) => {
    current = value;
    write("sessionStorage", STORE, value || null);
  },
  onMissing: (ask) => { askKey = ask; },
};

export class ServiceError extends Error {
  constructor(message, { code = "", status = 0, requestId = "", details = [], fix = "" } = {}) {
    super(message);
    Object.assign(this, { code, status, requestId, details, fix });
  }
}

const UNREACHABLE = "The service cannot be reached.";
const CUT = "The connection ended before the answer was complete.";
const CHECK = "Check that the service runs (its /readyz says what is missing), then ask again.";

// Of an error envelope; the other server in the way may have answered without one.
export function envelopeError(body, status, retryAfter) {
  const error = body?.error;
  const fix = retryAfter ? `Try again in ${retryAfter} s.` : "";
  if (typeof error?.message !== "string") {
    return new ServiceError(`The answer was HTTP ${status}, without a reason.`, { status, fix: fix || CHECK });
  }
  const details = (Array.isArray(error.details) ? error.details : []).slice(1).map((one) => (one.param ? `${one.param}: ${one.message}` : one.message));
  return new ServiceError(error.message, { code: error.code, status, requestId: error.request_id ?? "", details, fix });
}

async function request(path, { body, signal } = {}) {
  for (;;) {
    const shown = key.get();
    const headers = shown ? { authorization: `Bearer ${shown}` } : {};
    if (body) headers["content-type"] = "application/json";
    const init = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
    let response;
    try {
      response = await fetch(path, { ...init, cache: "no-store", credentials: "omit", redirect: "error" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ServiceError(UNREACHABLE, { fix: CHECK });
    }
    if (response.ok) return response;
    const error = envelopeError(await response.json().catch(() => null), response.status, response.headers.get("retry-after"));
    if (response.status !== 401) throw error;
    if (key.get() !== shown) continue; // another call has asked meanwhile
    if (!(await askKey(error.message))) throw error;
  }
}

export async function call(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch {
    throw new ServiceError(`What answered /${path} is not the service: it sent no JSON.`, { fix: CHECK });
  }
}

// Whether the service takes requests; not ready is an answer here, not an error.
export async function readiness() {
  try {
    const response = await fetch("readyz", { cache: "no-store", credentials: "omit" });
    const { status, reasons } = await response.json();
    if (typeof status !== "string") throw new TypeError("an error envelope, or another server");
    return { status, reasons: Array.isArray(reasons) ? reasons : [] };
  } catch {
    return { status: "unreachable", reasons: [UNREACHABLE] };
  }
}

// Yields {name, data} of each event, the last one `done` or `error`; a stream that ends otherwise is an error here.
export async function* events(path, body, signal) {
  const response = await request(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ServiceError(CUT, { fix: CHECK });
      text += value.replaceAll("\r", "");
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const event of blocks.map(parse).filter(Boolean)) {
        yield event;
        if (event.name === "done" || event.name === "error") return;
      }
    }
  } catch (error) {
    if (error instanceof ServiceError || signal?.aborted) throw error;
    throw new ServiceError(CUT, { fix: CHECK });
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let name = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  return data && { name, data: JSON.parse(data) };
}
