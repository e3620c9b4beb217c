// The browser's local storage: conversations, settings and the API key. Each conversation has its own entry, so that
// two tabs do not overwrite each other's changes. Above a limit, the least recently changed conversations are deleted.

const PREFIX = 'ortolan.conversation.';
const MAX_CONVERSATIONS = 100;
const MAX_CHARACTERS = 2_000_000; // browsers allow about five million per site

const storage = browserStorage();

/** All conversations, the most recently changed first. */
export function conversations() {
  return names().map((name) => parsed(name)).filter((conversation) => conversation?.messages).sort((a, b) => b.changed - a.changed);
}

/** Creates an empty conversation; it is stored at the first `save`. */
export function newConversation() {
  // randomUUID does not exist if the page is loaded over plain HTTP from another machine.
  return { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), changed: Date.now(), messages: [] };
}

/** Stores a conversation, or removes it if it has no messages. Returns whether storing succeeded. */
export function save(conversation) {
  if (conversation.messages.length === 0) {
    remove(conversation);
    return true;
  }
  conversation.changed = Date.now();
  const text = JSON.stringify(conversation);
  const name = PREFIX + conversation.id;
  let others = names().filter((other) => other !== name);
  const exceedsLimits = () =>
    others.length >= MAX_CONVERSATIONS ||
    others.reduce((sum, other) => sum + storage.getItem(other).length, text.length) > MAX_CHARACTERS;
  if (exceedsLimits()) others.sort((a, b) => parsed(b).changed - parsed(a).changed);
  for (;;) {
    if (others.length === 0 || !exceedsLimits()) {
      if (write(name, text)) return true;
      if (others.length === 0) return false;
    }
    storage.removeItem(others.pop());
  }
}

export function remove(conversation) {
  storage.removeItem(PREFIX + conversation.id);
}

/** The stored value of `name` (`settings` or `key`). */
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

/** Local storage, or memory if the browser forbids local storage. */
function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    const memory = Object.create({
      getItem(name) { return this[name] ?? null; },
      setItem(name, text) { this[name] = text; },
      removeItem(name) { delete this[name]; },
    });
    return memory;
  }
}
