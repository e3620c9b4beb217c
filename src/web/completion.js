// The client module of llama.cpp's server of 2024: `llama` and its variants stream completions of /completion, in a
// browser or in Node 18 or later. Also exports `sendRequest` and `serverEvents`, which the chat page uses.

// The server of 2024 also had /index.js and /json-schema-to-grammar.mjs. They are not provided: /index.js was a bundle
// of Preact, and this server accepts a `json_schema` directly.

const DEFAULTS = { stream: true, n_predict: 500, temperature: 0.2, stop: ['</s>'] };

let generationSettings = null;

/**
 * Streams the continuation of a prompt in chunks `{ data: { content, stop, … } }`. In the last chunk, `data` has
 * `stop: true` and the timings. Leaving the loop or calling `config.controller.abort()` cancels the request.
 *
 *     for await (const chunk of llama('Once upon a time')) document.write(chunk.data.content)
 *
 * @param prompt the field `prompt` of /completion
 * @param params other fields of the request
 * @param config `api_url` (default: this page's server), `api_key`, `controller` (an AbortController)
 * @returns the complete text
 * @throws Error with the server's message
 */
export async function* llama(prompt, params = {}, config = {}) {
  const { api_key, controller } = config;
  const body = { ...DEFAULTS, ...params, prompt };
  const response = await sendRequest(address(config, 'completion'), body, { key: api_key, signal: controller?.signal });
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
 * Like `llama`, with events: `message` for each chunk, `generation_settings` and `timings` once, `done` with the
 * complete text in `detail.content`, or `error` with an Error as `detail`.
 */
export function llamaEventTarget(prompt, params = {}, config = {}) {
  const target = new EventTarget();
  const dispatch = (type, detail) => target.dispatchEvent(Object.assign(new Event(type), { detail }));
  (async () => {
    let content = '';
    for await (const { data } of llama(prompt, params, config)) {
      content += data.content;
      dispatch('message', data);
      if (data.generation_settings) dispatch('generation_settings', data.generation_settings);
      if (data.timings) dispatch('timings', data.timings);
    }
    dispatch('done', { content });
  })().catch((error) => dispatch('error', error));
  return target;
}

/** Like `llama`; returns a promise of the complete text. */
export async function llamaPromise(prompt, params = {}, config = {}) {
  let content = '';
  for await (const { data } of llama(prompt, params, config)) content += data.content;
  return content;
}

/** Like `llama`; calls `callback` with each chunk. `params` includes the prompt. */
export async function llamaComplete(params, controller, callback) {
  for await (const chunk of llama(params.prompt, params, { controller })) callback(chunk);
}

/** The generation settings of the last response or, before the first, the server's defaults; they include `n_ctx` and `model`. */
export async function llamaModelInfo(config = {}) {
  if (!generationSettings) {
    const props = await sendRequest(address(config, 'props'), null, { key: config.api_key });
    generationSettings = (await props.json()).default_generation_settings;
  }
  return generationSettings;
}

function address({ api_url = '' }, path) {
  return `${api_url.replace(/\/+$/, '')}/${path}`;
}

/** Sends a POST request with a JSON `body`, or a GET request. Throws an Error with the server's message and `status`. */
export async function sendRequest(url, body, { key, signal } = {}) {
  const headers = body ? { 'Content-Type': 'application/json' } : {};
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(url, { method: body ? 'POST' : 'GET', body: body && JSON.stringify(body), headers, signal });
  if (response.ok) return response;
  const json = await response.json().catch(() => null);
  const message = json?.error?.message ?? `the server responded with status ${response.status}`;
  throw Object.assign(new Error(message), { status: response.status });
}

/** The parsed events of a stream. Throws the error of an error event. Leaving the loop cancels the request. */
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
