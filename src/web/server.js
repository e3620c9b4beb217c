// How the server is: asked until it can answer, and again whenever somebody has reason to doubt it.
import { ask } from './completion.js';

const ASK_AGAIN_MS = 1000;

/**
 * Follows the server's state and calls `report` with `{ name, text, progress?, props? }` whenever it was asked.
 * `name` is `ready`, `loading`, `locked` (it wants a key), `gone` or `failed`. Answers a function that asks anew.
 */
export function followState(key, report) {
  let timer = null;
  let asked = 0;
  return async function check() {
    clearTimeout(timer);
    const mine = ++asked;
    const state = await serverState(key());
    if (mine !== asked) return;
    report(state);
    if (state.name !== 'ready' && state.name !== 'locked') timer = setTimeout(check, ASK_AGAIN_MS);
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
      const text = health.error?.message ?? 'The model could not be loaded: the server’s log says why.';
      return { name: 'failed', text };
    }
    const props = await (await ask('props', null, { key })).json();
    return { name: 'ready', text: modelName(props.model ?? 'ready'), props };
  } catch (error) {
    if (error.status === 401) return { name: 'locked', text: 'The server wants an API key.', problem: error.message };
    if (error.status) return { name: 'failed', text: error.message };
    return { name: 'gone', text: 'The server does not answer.' };
  }
}

function modelName(model) {
  return model.split(/[\\/]/).at(-1).replace(/\.gguf$/i, '');
}
