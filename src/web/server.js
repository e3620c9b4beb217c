// The server's state, which is polled until the server is ready or requires an API key, and then checked on demand.
import { sendRequest } from './completion.js';

const POLL_INTERVAL_MS = 1000;

/**
 * Returns a function that checks the server's state and calls `report` with `{ name, text, progress?, props? }`. `name`
 * is `ready`, `loading`, `locked` (an API key is required), `gone` or `failed`. Repeats the check until the state is
 * `ready` or `locked`.
 */
export function followState(key, report) {
  let timer = null;
  let lastCheck = 0;
  return async function check() {
    clearTimeout(timer);
    const thisCheck = ++lastCheck;
    const state = await serverState(key());
    if (thisCheck !== lastCheck) return;
    report(state);
    if (state.name !== 'ready' && state.name !== 'locked') timer = setTimeout(check, POLL_INTERVAL_MS);
  };
}

async function serverState(key) {
  try {
    const response = await fetch('health', { cache: 'no-store' });
    const health = await response.json().catch(() => ({}));
    if (health.status === 'loading model') {
      const { progress } = health;
      const share = typeof progress === 'number' ? ` ${Math.round(progress * 100)} %` : '';
      return { name: 'loading', text: `Loading the model…${share}`, progress };
    }
    if (!response.ok) {
      const text = health.error?.message ?? 'The model could not be loaded. See the server’s log.';
      return { name: 'failed', text };
    }
    const props = await (await sendRequest('props', null, { key })).json();
    return { name: 'ready', text: modelName(props.model ?? 'ready'), props };
  } catch (error) {
    if (error.status === 401) return { name: 'locked', text: 'The server requires an API key.', problem: error.message };
    if (error.status) return { name: 'failed', text: error.message };
    return { name: 'gone', text: 'The server does not respond.' };
  }
}

function modelName(model) {
  return model.split(/[\\/]/).at(-1).replace(/\.gguf$/i, '');
}
