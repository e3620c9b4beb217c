// The settings: the form, its stored values, and the request fields that they set.
import { keep, read } from './store.js';

const form = document.querySelector('#settings form');
const inputs = [...form.elements].filter((input) => input.name && input.name !== 'key');

// Sampling parameters with the same names in /props and in the chat route.
const SAMPLING = [
  'temperature', 'top_k', 'top_p', 'min_p', 'repeat_penalty', 'repeat_last_n', 'presence_penalty', 'frequency_penalty',
];

let changed = read('settings', {});
let defaults = {};

/** Fills the form, stores changes, and calls `onChange` with whether any field differs from its default. */
export function followForm(onChange) {
  const notify = () => onChange(Object.keys(changed).length > 0);
  const fill = () => inputs.forEach((input) => { input.value = changed[input.name] ?? ''; });
  form.addEventListener('input', ({ target }) => {
    if (!inputs.includes(target)) return;
    if (target.value === '') delete changed[target.name];
    else changed[target.name] = target.value;
    keep('settings', changed);
    notify();
  });
  form.querySelector('#defaults').addEventListener('click', () => {
    changed = {};
    keep('settings', changed);
    fill();
    notify();
  });
  fill();
  notify();
}

/** Shows the server's defaults (`default_generation_settings`) as placeholders of empty fields. */
export function showDefaults(settings) {
  defaults = settings;
  for (const name of SAMPLING) form.elements[name].placeholder = settings[name] ?? '';
  form.elements.seed.placeholder = settings.seed >= 0 ? settings.seed : 'random';
  form.elements.max_tokens.placeholder = settings.n_predict >= 0 ? settings.n_predict : 'no limit';
}

export function systemPrompt() {
  return changed.system?.trim() ?? '';
}

/** The settings as fields for /v1/chat/completions. Throws an Error for invalid JSON. */
export function requestFields() {
  const fields = {};
  // The chat route has OpenAI's defaults instead of those of /props, so the defaults that the form shows must be sent.
  for (const name of SAMPLING) {
    if (changed[name] !== undefined) fields[name] = Number(changed[name]);
    else if (typeof defaults[name] === 'number') fields[name] = defaults[name];
  }
  if (changed.seed) fields.seed = Number(changed.seed);
  if (changed.max_tokens) fields.max_tokens = Number(changed.max_tokens);
  const stop = (changed.stop ?? '').split('\n').filter((text) => text !== '');
  if (stop.length > 0) fields.stop = stop;
  if (changed.grammar?.trim()) fields.grammar = changed.grammar;
  if (changed.json_schema?.trim()) {
    fields.response_format = { type: 'json_schema', json_schema: { name: 'answer', schema: parsed('json_schema', 'schema') } };
  }
  if (changed.tools?.trim()) fields.tools = [parsed('tools', 'list of tools')].flat().map(asTool);
  return fields;
}

/** Converts a tool to the format of the chat route; the formats of MCP and of Anthropic's API are accepted, too. */
function asTool(tool) {
  if (!tool || tool.function || !tool.name) return tool;
  const { name, description, parameters, input_schema, inputSchema } = tool;
  return { type: 'function', function: { name, description, parameters: parameters ?? input_schema ?? inputSchema } };
}

function parsed(field, name) {
  try {
    return JSON.parse(changed[field]);
  } catch (error) {
    throw new Error(`The ${name} in the settings is not JSON: ${error.message}`);
  }
}
