// What the browser keeps: conversations, each under a name of its own so that two tabs do not undo each other's
// work, settings and the key. When there is too much, the conversations that rested longest go.

const PREFIX = 'ortolan.conversation.';
const MOST_CONVERSATIONS = 100;
const MOST_CHARACTERS = 2_000_000; // browsers keep some five million for a site

const storage = browserStorage();

/** All conversations, the latest first. */
export function conversations() {
  return names().map((name) => parsed(name)).filter((found) => found?.messages).sort((a, b) => b.changed - a.changed);
}

/** A conversation that has no message yet; it is kept from the first `save` on. */
export function newConversation() {
  // No randomUUID: it is missing where the page comes over plain HTTP from another machine.
  return { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), changed: Date.now(), messages: [] };
}

/** Keeps a conversation; without messages it is removed. Answers whether there was room. */
export function save(conversation) {
  if (conversation.messages.length === 0) {
    remove(conversation);
    return true;
  }
  conversation.changed = Date.now();
  const text = JSON.stringify(conversation);
  const name = PREFIX + conversation.id;
  let others = names().filter((other) => other !== name);
  const tooMuch = () =>
    others.length >= MOST_CONVERSATIONS ||
    others.reduce((sum, other) => sum + storage.getItem(other).length, text.length) > MOST_CHARACTERS;
  if (tooMuch()) others.sort((a, b) => parsed(b).changed - parsed(a).changed);
  for (;;) {
    if (others.length === 0 || !tooMuch()) {
      if (write(name, text)) return true;
      if (others.length === 0) return false;
    }
    storage.removeItem(others.pop());
  }
}

export function remove(conversation) {
  storage.removeItem(PREFIX + conversation.id);
}

/** The settings or the key, as last kept. */
export function read(name, fallback) {
  return parsed(`ortolan.${name}`) ?? fallback;
}

export function keep(name, value) {
  return write(`ortolan.${name}`, JSON.stringify(value));
}

function names() {
  return Object.keys(storage).filter((name) => name.startsWith(PREFIX));
}

function parsed(name) {
  try {
    return JSON.parse(storage.getItem(name));
  } catch {
    return null;
  }
}

function write(name, text) {
  try {
    storage.setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

/** A browser may forbid to keep anything: then the page remembers until it is closed. */
function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    const kept = Object.create({
      getItem(name) { return this[name] ?? null; },
      setItem(name, text) { this[name] = text; },
      removeItem(name) { delete this[name]; },
    });
    return kept;
  }
}
