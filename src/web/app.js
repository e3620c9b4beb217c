// The chat page: sends messages, renders conversations, and handles buttons and keys.
import { sendRequest, serverEvents } from './completion.js';
import { element, render } from './markdown.js';
import { followState } from './server.js';
import { followForm, requestFields, showDefaults, systemPrompt } from './settings.js';
import * as store from './store.js';

const byId = (id) => document.getElementById(id);
const NEAR_END_PX = 48;
const SAVE_EVERY_MS = 1000;
const TOAST_MS = 8000;
const PAINT_SHARE = 4; // while an answer streams, painting takes at most 1 / PAINT_SHARE of the time
const NO_RESULT = 'No result was given.'; // sent to the model for a tool call without a result

const runs = new Map(); // conversation id → the answer that is being generated
const problems = new Map(); // conversation id → the error of its last request
let conversations = store.conversations();
const bodies = new WeakMap(); // answer → the element with its text
let editing = null; // { conversation, draft } while the last user message is edited; sending applies the edit
let current = conversations.find(({ id }) => `#${id}` === location.hash) ?? conversations[0] ?? store.newConversation();
let state = { name: 'connecting' };
let context = null; // tokens
let autoScrolls = true;

/* Requests */

/** Requests the next message of a conversation. If the request fails before any text, the answer `replaced` is restored. */
async function requestAnswer(conversation, replaced = null) {
  const message = { role: 'assistant', content: '', note: {} };
  const run = { conversation, message, controller: new AbortController(), startedAt: performance.now(), tokens: 0, savedAt: 0, paintAt: 0, complete: false };
  runs.set(conversation.id, run);
  problems.delete(conversation.id);
  byId('toast').hidePopover(); // the offered undo no longer applies
  if (conversation === current) {
    autoScrolls = true;
    paint();
  }
  try {
    const messages = conversation.messages.flatMap(toRequestMessages);
    const system = systemPrompt();
    const body = {
      messages: system ? [{ role: 'system', content: system }, ...messages] : messages,
      stream: true,
      stream_options: { include_usage: true },
      ...requestFields(),
    };
    const response = await sendRequest('v1/chat/completions', body, { key: store.read('key'), signal: run.controller.signal });
    for await (const event of serverEvents(response)) {
      const [choice] = event.choices;
      if (choice?.delta) addDelta(conversation, run, choice.delta);
      if (choice?.finish_reason) message.note.finish = choice.finish_reason;
      if (event.usage) message.note.usage = event.usage;
    }
    if (!message.note.finish) throw new Error('The connection was closed before the answer was complete.');
    run.complete = true;
  } catch (error) {
    const wasStopped = run.controller.signal.aborted;
    message.note.finish = wasStopped ? 'stopped' : 'interrupted';
    if (!wasStopped) setProblem(conversation, run, error);
  }
  runs.delete(conversation.id);
  // An empty answer is valid if the model ended it.
  if (run.tokens === 0 && run.complete) conversation.messages.push(message);
  else if (run.tokens === 0 && replaced) conversation.messages.push(replaced);
  if (run.discarded) return;
  Object.assign(message.note, timingsOf(run));
  save(conversation);
  if (conversation === current) {
    paint();
    if (!problems.has(conversation.id)) byId('announcer').textContent = `Answer: ${message.content || calledNames(message)}`;
  }
}

/** Converts a message to request messages: tool calls are followed by their results. Truncated calls are omitted. */
function toRequestMessages({ role, content, calls = [] }) {
  const complete = calls.filter(isComplete);
  if (complete.length === 0) return [{ role, content }];
  const toolCalls = complete.map(({ id, name, arguments: text }) => ({ id, type: 'function', function: { name, arguments: text } }));
  const results = complete.map(({ id, result }) => ({ role: 'tool', tool_call_id: id, content: result ?? NO_RESULT }));
  return [{ role, content: content || null, tool_calls: toolCalls }, ...results];
}

/** Whether the next message must come from the model. */
const expectsAnswer = (message) => message?.role === 'user' || Boolean(message?.calls?.some(({ result }) => result !== undefined));

const calledNames = ({ calls = [] }) => calls.map(({ name }) => `calls ${name}`).join(', ');

const isComplete = (call) => parsedArguments(call) !== undefined;

function parsedArguments({ arguments: text }) {
  try {
    return JSON.parse(text || '{}');
  } catch {
    return undefined;
  }
}

/** Adds the delta of an event to the message, which the first delta adds to the conversation. A later frame paints it. */
function addDelta(conversation, run, { content, reasoning_content: reasoning, tool_calls: calls }) {
  if (!content && !reasoning && !calls?.length) return;
  const { message } = run;
  const now = performance.now();
  run.firstAt ??= now;
  run.lastAt = now;
  run.tokens += 1;
  if (content) message.content += content;
  if (reasoning) message.thought = (message.thought ?? '') + reasoning; // the name of the field in stored conversations
  for (const { index, id, function: called } of calls ?? []) {
    message.calls ??= [];
    const call = (message.calls[index ?? message.calls.length] ??= { id: id ?? '', name: '', arguments: '' });
    call.name += called?.name ?? '';
    call.arguments += called?.arguments ?? '';
  }
  if (run.tokens === 1) {
    conversation.messages.push(message);
    if (conversation === current) paint();
  }
  if (now - run.savedAt > SAVE_EVERY_MS) {
    run.savedAt = now;
    save(conversation);
  }
  run.timer ??= setTimeout(() => requestAnimationFrame(() => paintStreamed(run)), run.paintAt - now);
}

/** Paints a streamed answer, and limits the share of time for painting. */
function paintStreamed(run) {
  run.timer = null;
  const { conversation, message } = run;
  if (conversation !== current || runs.get(conversation.id) !== run) return;
  const startedAt = performance.now();
  const item = byId('thread').lastElementChild;
  render(item.querySelector('.text'), message.content, true);
  showReasoning(item.querySelector('.reasoning'), message);
  showCalls(item.querySelector('.calls'), message);
  item.querySelector('.note').textContent = noteText({ ...message.note, ...timingsOf(run) });
  scrollToEnd();
  const endedAt = performance.now();
  run.paintAt = endedAt + (endedAt - startedAt) * (PAINT_SHARE - 1);
}

/** Token count, time to first token in seconds, and tokens per second. Each event counts as one token. */
function timingsOf({ startedAt, firstAt, lastAt, tokens }) {
  if (!firstAt) return {};
  const seconds = (lastAt - firstAt) / 1000;
  return { tokens, first: (firstAt - startedAt) / 1000, rate: seconds > 0 ? (tokens - 1) / seconds : null };
}

function noteText({ finish, usage, tokens, first, rate }) {
  const count = usage?.completion_tokens ?? tokens;
  const parts = [];
  if (finish === 'length') parts.push('truncated at the limit');
  else if (finish && !['stop', 'tool_calls'].includes(finish)) parts.push(finish);
  if (count !== undefined) parts.push(`${count} ${count === 1 ? 'token' : 'tokens'}`);
  if (rate) parts.push(`${rate.toFixed(1)} per second`);
  if (first !== undefined) parts.push(`first token after ${first.toFixed(first < 10 ? 2 : 0)} s`);
  if (usage) parts.push(`context ${usage.total_tokens}${context ? ` of ${context}` : ''}`);
  return parts.map((part) => part.replaceAll(' ', '\u00a0')).join(' · ');
}

function setProblem(conversation, run, error) {
  const isUnreachable = error instanceof TypeError; // fetch throws it for network errors
  const networkProblem = run.firstAt ? 'The connection to the server was lost.' : 'The server cannot be reached.';
  problems.set(conversation.id, isUnreachable ? networkProblem : error.message);
  if (isUnreachable || error.status === 401 || error.status === 503) check();
}

function stopAnswer() {
  runs.get(current.id)?.controller.abort();
}

/* Conversations */

function save(conversation) {
  if (!store.save(conversation)) toast('The browser has no space left to store this conversation.');
  refresh();
}

/** Reads the list of conversations again. Changes by another tab are adopted unless an answer is being generated here. */
function refresh(byAnotherTab = false) {
  conversations = store.conversations().map((stored) => {
    if (runs.has(stored.id)) return runs.get(stored.id).conversation;
    if (stored.id !== current.id) return stored;
    if (byAnotherTab && JSON.stringify(stored.messages) !== JSON.stringify(current.messages)) {
      current.messages = stored.messages;
      editing = null; // the text in the message box stays and will be sent as a new message
      paint();
    }
    return current;
  });
  paintList();
}

function open(conversation) {
  if (conversation !== editing?.conversation) cancelEdit();
  current = conversation;
  autoScrolls = true;
  history.replaceState(null, '', conversation.messages.length > 0 ? `#${conversation.id}` : location.pathname);
  if (byId('conversations').matches(':popover-open')) byId('conversations').hidePopover();
  paint();
  paintList();
  scrollToEnd();
}

function discard(conversation) {
  forget(conversation);
  refresh();
  if (conversation === current) open(conversations[0] ?? store.newConversation());
  toast(`“${title(conversation)}” was deleted.`, () => {
    save(conversation);
    open(conversations.find(({ id }) => id === conversation.id));
  });
}

function forget(conversation) {
  const run = runs.get(conversation.id);
  if (run) {
    run.discarded = true;
    run.controller.abort();
  }
  store.remove(conversation);
}

/** Deletes the last user message and the messages after it. */
function deleteTurn() {
  cancelEdit();
  const conversation = current;
  const from = conversation.messages.findLastIndex(({ role }) => role === 'user');
  const turn = conversation.messages.splice(from);
  problems.delete(conversation.id);
  save(conversation);
  paint();
  toast('The last turn was deleted.', () => {
    conversation.messages.splice(from, Infinity, ...turn);
    save(conversation);
    open(conversation);
  });
}

/** Copies the last user message into the message box. Sending replaces that message and the messages after it. */
function edit(text) {
  editing = { conversation: current, draft: editing?.draft ?? byId('message').value };
  paint();
  write(text);
}

function cancelEdit() {
  if (!editing) return;
  const { draft } = editing;
  editing = null;
  paint();
  write(draft);
}

function regenerate() {
  cancelEdit();
  requestAnswer(current, expectsAnswer(current.messages.at(-1)) ? null : current.messages.pop());
}

/* Painting */

const title = ({ messages }) => messages[0]?.content.trim().split('\n')[0].slice(0, 80) || 'New conversation';
const button = (textContent, onclick, label) =>
  element('button', { type: 'button', className: 'quiet', textContent, onclick, ariaLabel: label ?? null });

function paint() {
  const run = runs.get(current.id);
  const last = current.messages.length - 1;
  const lastUserMessage = current.messages.findLastIndex(({ role }) => role === 'user');
  const items = current.messages.map((message, index) => {
    const item = message.role === 'user'
      ? userMessage(message, index === lastUserMessage && !run)
      : answerItem(message, index === last && !run, message === run?.message);
    item.classList.toggle('replaced', editing?.conversation === current && index >= lastUserMessage);
    return item;
  });
  if (run && !current.messages.includes(run.message)) items.push(waitingItem());
  byId('thread').replaceChildren(...items);
  byId('welcome').hidden = last >= 0;
  byId('editing').hidden = editing?.conversation !== current;
  paintProblem(Boolean(run), expectsAnswer(current.messages[last]));
  paintControls();
  document.title = last >= 0 ? `${title(current)} – ortolan` : 'ortolan';
  scrollToEnd();
}

function userMessage(message, isLast) {
  const item = element('li', { className: 'user' });
  const text = element('div', { className: 'text', dir: 'auto', textContent: message.content });
  const actions = element('div', { className: 'actions' }, button('Copy', (event) => copy(event.target, message.content)));
  if (isLast) actions.append(button('Edit', () => edit(message.content)), button('Delete', deleteTurn));
  item.append(element('h3', { className: 'unseen', textContent: 'You' }), text, actions);
  return item;
}

/** Shows the reasoning before an answer in a collapsible element. */
function showReasoning(details, message) {
  details.hidden = !message.thought;
  details.lastElementChild.textContent = message.thought ?? '';
}

/** The element of an answer. `canChange`: the answer is the last message and complete; `growing`: it is being streamed. */
function answerItem(message, canChange, growing) {
  const { content, note: measures, calls } = message;
  const text = bodies.get(message) ?? element('div', { className: 'text' });
  bodies.set(message, text);
  render(text, content, growing);
  const reasoning = element('details', { className: 'reasoning' }, element('summary', { textContent: 'Reasoning' }), element('div', { dir: 'auto' }));
  showReasoning(reasoning, message);
  const callsElement = element('div', { className: 'calls' });
  showCalls(callsElement, message);
  const note = element('span', { className: 'note', textContent: growing ? '' : noteText({ finish: 'interrupted', ...measures }) });
  const actions = element('div', { className: 'actions' });
  if (!growing) actions.append(button('Copy', (event) => copy(event.target, content || JSON.stringify(calls?.map(callOf)))));
  if (canChange && !expectsAnswer(message)) actions.append(button('Regenerate', regenerate));
  actions.append(note);
  const item = element('li', { className: 'assistant' });
  item.classList.toggle('growing', growing);
  item.append(element('h3', { className: 'unseen', textContent: 'Answer' }), reasoning, text, callsElement);
  if (canChange && calls?.some(isComplete) && !expectsAnswer(message)) item.append(resultForm(message));
  if (!growing && !content && !calls) item.append(element('p', { className: 'empty', textContent: 'The answer is empty.' }));
  item.append(actions);
  return item;
}

const callOf = ({ name, arguments: text }) => ({ name, arguments: text });

/** Shows the tool calls of a message with their arguments and results. */
function showCalls(target, { calls = [] }) {
  target.replaceChildren(...calls.map((call) => {
    const { name, arguments: text, result } = call;
    const value = parsedArguments(call);
    const head = element('figcaption', {}, element('span', {}, 'Calls ', element('code', { textContent: name })));
    const block = (content) => element('pre', { tabIndex: 0 }, element('code', { textContent: content }));
    const shown = element('figure', { className: 'code call', dir: 'ltr' }, head, block(value === undefined ? text : JSON.stringify(value, null, 2)));
    if (result !== undefined) shown.append(element('figcaption', { textContent: 'Result' }), block(result));
    return shown;
  }));
}

/** A form for the results of tool calls: the user enters them, because the page does not run functions. */
function resultForm({ calls }) {
  const complete = calls.filter(isComplete);
  const fields = complete.map(({ name }) => element('textarea', { rows: 1, dir: 'auto', ariaLabel: `Result of ${name}`, placeholder: `Result of ${name}` }));
  const send = element('button', { className: 'quiet send-results', textContent: 'Send to the model' });
  const form = element('form', { className: 'results' }, ...fields, send);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (state.name !== 'ready' || runs.has(current.id)) return;
    complete.forEach((call, index) => { call.result = fields[index].value; });
    cancelEdit();
    save(current);
    requestAnswer(current);
  });
  return form;
}

function waitingItem() {
  return element('li', { className: 'assistant waiting', ariaLabel: 'Waiting for the answer' }, ...['', '', ''].map(() => element('i')));
}

function paintProblem(running, isUnanswered) {
  const problem = running ? null : problems.get(current.id) ?? (isUnanswered ? 'This message has no answer.' : null);
  byId('problem').replaceChildren(...(problem ? [element('p', { textContent: problem }), button('Try again', regenerate)] : []));
  byId('problem').classList.toggle('calm', !problems.has(current.id));
}

function paintControls() {
  const running = runs.has(current.id);
  const stopHadFocus = document.activeElement === byId('stop');
  byId('send').hidden = running;
  byId('stop').hidden = !running;
  byId('send').disabled = state.name !== 'ready' || byId('message').value.trim() === '';
  if (stopHadFocus && !running) byId('message').focus();
}

function paintList() {
  const content = JSON.stringify([current.id, conversations.map((conversation) => [conversation.id, title(conversation)])]);
  if (content === byId('list').painted) return; // keeps the keyboard focus
  byId('list').painted = content;
  byId('list').replaceChildren(...conversations.map((conversation) => {
    const name = title(conversation);
    const choose = element('button', { type: 'button', className: 'choose', dir: 'auto', textContent: name, title: name, onclick: () => open(conversation) });
    if (conversation === current) choose.ariaCurrent = 'true';
    return element('li', {}, choose, button('×', () => discard(conversation), `Delete “${name}”`));
  }));
}

function paintState(newState) {
  state = newState;
  byId('state').dataset.state = newState.name;
  byId('state-text').textContent = newState.text;
  byId('state').title = newState.props?.model ?? '';
  byId('progress').hidden = newState.name !== 'loading' || newState.progress === undefined;
  if (newState.progress !== undefined) byId('progress').value = newState.progress;
  if (newState.props) {
    const previous = context;
    context = newState.props.n_ctx;
    if (context !== previous) paint(); // notes show the used part of the context
    showDefaults(newState.props.default_generation_settings);
    showKeyProblem('');
  }
  if (newState.name === 'locked') askForKey(newState.problem);
  paintControls();
}

/* Helpers */

function write(text) {
  byId('message').value = text;
  fitMessage();
  byId('message').focus();
}

function fitMessage() {
  const { style } = byId('message');
  style.height = 'auto';
  style.height = `${byId('message').scrollHeight + 2}px`;
  paintControls();
}

function scrollToEnd() {
  if (autoScrolls) byId('scroll').scrollTop = byId('scroll').scrollHeight;
  byId('latest').hidden = autoScrolls;
}

async function copy(source, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine, only the old clipboard interface is available.
    const area = element('textarea', { value: text, className: 'unseen' });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  source.textContent = 'Copied';
  setTimeout(() => { source.textContent = 'Copy'; }, 1500);
}

let toastTimer = null;
function toast(text, undo) {
  byId('toast-text').textContent = text;
  byId('undo').hidden = !undo;
  byId('undo').onclick = () => {
    byId('toast').hidePopover();
    undo();
  };
  byId('toast').showPopover();
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId('toast').hidePopover(), TOAST_MS);
}

function askForKey(message) {
  const hasKey = Boolean(store.read('key'));
  showKeyProblem(hasKey ? `The server rejected this key: ${message}.` : 'This server requires an API key.');
  if (!byId('settings').open) byId('settings').showModal();
  keyInput.focus();
}

function showKeyProblem(text) {
  byId('key-problem').textContent = text;
  byId('key-problem').hidden = text === '';
}

const keyInput = document.querySelector('[name=key]');

/* Event handlers */

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = byId('message').value.trim();
  if (text === '' || state.name !== 'ready' || runs.has(current.id)) return;
  if (editing) current.messages.splice(current.messages.findLastIndex(({ role }) => role === 'user'));
  write(editing?.draft ?? '');
  editing = null;
  current.messages.push({ role: 'user', content: text });
  save(current);
  history.replaceState(null, '', `#${current.id}`);
  requestAnswer(current);
});
byId('message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId('composer').requestSubmit();
});
byId('message').addEventListener('input', fitMessage);
byId('cancel-edit').addEventListener('click', cancelEdit);
byId('stop').addEventListener('click', stopAnswer);
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || document.querySelector('dialog[open], nav:popover-open')) return;
  if (editing) cancelEdit();
  else stopAnswer();
});
byId('ideas').addEventListener('click', ({ target }) => {
  if (target.localName !== 'button') return;
  write(target.textContent);
});
byId('thread').addEventListener('click', ({ target }) => {
  if (target.classList.contains('copy-code')) copy(target, target.closest('figure').querySelector('code').textContent);
});
byId('scroll').addEventListener('scroll', () => {
  const { scrollHeight, scrollTop, clientHeight } = byId('scroll');
  autoScrolls = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  byId('latest').hidden = autoScrolls;
});
byId('latest').addEventListener('click', () => {
  autoScrolls = true;
  scrollToEnd();
});
byId('new').addEventListener('click', () => {
  open(store.newConversation());
  byId('message').focus();
});
byId('open-settings').addEventListener('click', () => byId('settings').showModal());
byId('settings').addEventListener('click', (event) => {
  if (event.target === byId('settings')) byId('settings').close();
});
byId('clear').addEventListener('click', () => {
  if (!confirm('Delete all conversations that are stored in this browser?')) return;
  conversations.forEach(forget);
  refresh();
  open(store.newConversation());
  byId('settings').close();
});
keyInput.value = store.read('key', '');
keyInput.addEventListener('change', () => {
  store.keep('key', keyInput.value.trim());
  check();
});
addEventListener('storage', () => refresh(true));
addEventListener('pagehide', () => conversations.filter(({ id }) => runs.get(id)?.tokens > 0).forEach(store.save));
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && runs.size === 0) check();
});

const check = followState(() => store.read('key'), paintState);
followForm((anyChanged) => byId('open-settings').classList.toggle('changed', anyChanged));
check();
open(current);
