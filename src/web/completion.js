// The module of 2024: `llama` and its kin ask /completion from a page or from Node (18 or later) and give the text
// as it comes. What the chat page needs of the same lives here, too: `ask` and `serverEvents`.

// Pages of that time also imported /index.js and /json-schema-to-grammar.mjs. Neither is here: the first was a
// bundle of Preact, which is no part of this interface, and the server takes a `json_schema` as it is.

const DEFAULTS = { stream: true, n_predict: 500, temperature: 0.2, stop: ['</s>'] };

let generationSettings = null;

/**
 * The continuation of a prompt, in chunks `{ data: { content, stop, … } }`; the last one's `data` has `stop: true`
 * and the timings. Leaving the loop stops the server's work, and so does `config.controller.abort()`.
 *
 *     for await (const chunk of llama('Once upon a time')) document.write(chunk.data.content)
 *
 * @param prompt what /completion takes as `prompt`
 * @param params further fields of the request
 * @param config `api_url` (default: this page's server), `api_key`, `controller` (an AbortController)
 * @returns the whole text, when it is complete
 * @throws Error with the server's message
 */
export async function* llama(prompt, params = {}, config = {}) {
  const { api_key, controller } = config;
  const body = { ...DEFAULTS, ...params, prompt };
  const response = await ask(address(config, 'completion'), body, { key: api_key, signal: controller?.signal });
  if (!body.stream) {
    const data = await response.json();
    generationSettings = data.generation_settings;
    yield { data };
    return data.content;
  }
  let content = '';
  for await (const data of serverEvents(response)) {
    content += data.content;
    if (data.generation_settings) generationSettings = data.generation_settings;
    yield { data };
    if (data.stop) return content;
  }
  throw new Error('the stream ended before the text was complete');
}

/**
 * The same as events: `message` for each chunk, `generation_settings` and `timings` once, `done` with the whole
 * text in `detail.content`, or `error` with an Error as `detail`.
 */
export function llamaEventTarget(prompt, params = {}, config = {}) {
  const target = new EventTarget();
  const tell = (type, detail) => target.dispatchEvent(Object.assign(new Event(type), { detail }));
  (async () => {
    let content = '';
    for await (const { data } of llama(prompt, params, config)) {
      content += data.content;
      tell('message', data);
      if (data.generation_settings) tell('generation_settings', data.generation_settings);
      if (data.timings) tell('timings', data.timings);
    }
    tell('done', { content });
  })().catch((error) => tell('error', error));
  return target;
}

/** The whole text at once. */
export async function llamaPromise(prompt, params = {}, config = {}) {
  let content = '';
  for await (const { data } of llama(prompt, params, config)) content += data.content;
  return content;
}

/** Calls back with each chunk; `params` holds the prompt, too. */
export async function llamaComplete(params, controller, callback) {
  for await (const chunk of llama(params.prompt, params, { controller })) callback(chunk);
}

/** The settings of the last answer or, before the first, the server's defaults: `n_ctx` and `model` are in them. */
export async function llamaModelInfo(config = {}) {
  if (!generationSettings) {
    const props = await ask(address(config, 'props'), null, { key: config.api_key });
    generationSettings = (await props.json()).default_generation_settings;
  }
  return generationSettings;
}

function address({ api_url = '' }, path) {
  return `${api_url.replace(/\/+$/, '')}/${path}`;
}

/**
 * Sends `body` as JSON, or GET without one. What is no success throws an Error with the server's message and
 * `status`.
 */
export async function ask(url, body, { key, signal } = {}) {
  const headers = body ? { 'Content-Type': 'application/json' } : {};
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(url, { method: body ? 'POST' : 'GET', body: body && JSON.stringify(body), headers, signal });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const message = answer?.error?.message ?? `the server answered with status ${response.status}`;
  throw Object.assign(new Error(message), { status: response.status });
}

/** The events of a stream, parsed. One that tells an error throws it; whoever leaves early ends the request. */
export async function* serverEvents(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith('data:')) continue;
        const text = line.slice('data:'.length).trim();
        if (text === '[DONE]') return;
        const data = JSON.parse(text);
        if (data.error) throw Object.assign(new Error(data.error.message), { status: data.error.code });
        yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
