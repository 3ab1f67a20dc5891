// Questions to the server. What is no longer wanted is aborted, and a failure is one sentence.

export class Failure extends Error {}

/** GET as JSON; signal ends it early. Throws Failure with the server's sentence, or AbortError. */
export async function ask(path, parameters = {}, signal = undefined) {
  const response = await reach(address(path, parameters), { signal });
  return response.json();
}

/** GET as a file. */
export async function fetched(path, parameters = {}, signal = undefined) {
  const response = await reach(address(path, parameters), { signal });
  return response.blob();
}

/** Every line of an NDJSON answer, as it comes. */
export async function* lines(path, parameters, signal) {
  const response = await reach(address(path, parameters), { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield sound(JSON.parse(part));
  }
  if (rest.trim()) yield sound(JSON.parse(rest));
}

/** Send a file; the answer as JSON. */
export async function send(path, file) {
  const headers = { "X-Name": encodeURIComponent(file.name || "dropped"), "Content-Type": "application/octet-stream" };
  const response = await reach(path, { method: "POST", body: file, headers });
  return response.json();
}

export function address(path, parameters = {}) {
  const words = new URLSearchParams(parameters);
  return words.size ? `${path}?${words}` : path;
}

/** One question at a time: the newest waits for the running one, those between are dropped.
 *  question(argument, signal) -> promise; answered(result, argument). */
export function newest(question, answered, failed) {
  let running = null;
  let waiting = null;
  async function run(argument) {
    running = new AbortController();
    try {
      answered(await question(argument, running.signal), argument);
    } catch (error) {
      if (error.name !== "AbortError") failed(error, argument);
    }
    running = null;
    if (waiting) {
      const [next] = waiting;
      waiting = null;
      run(next);
    }
  }
  return {
    ask(argument) {
      if (running) waiting = [argument];
      else run(argument);
    },
    stop() {
      waiting = null;
      running?.abort();
    },
  };
}

async function reach(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer; is roteq explore still running?");
  }
  if (response.ok) return response;
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error || sentence;
  } catch {
    // not ours
  }
  throw new Failure(sentence);
}

function sound(line) {
  if (line.error) throw new Failure(line.error);
  return line;
}
