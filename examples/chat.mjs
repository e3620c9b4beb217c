// Chats with the server in a terminal, for Node 16 or later, without packages. Each input line is a user turn; the chat
// ends at the end of the input.
//
//   node chat.mjs [http://127.0.0.1:8080]      also: API_URL, API_KEY
//   printf 'Hello.\nAnd now?\n' | node chat.mjs
import http from 'node:http';
import https from 'node:https';
import process from 'node:process';
import readline from 'node:readline';

const API_URL = process.argv[2] ?? process.env.API_URL ?? 'http://127.0.0.1:8080';
const API_KEY = process.env.API_KEY;
const PREAMBLE = 'A person talks with an assistant. The assistant gives short, friendly and true answers.';
const USER_TURN = '\nPerson: ';
const ASSISTANT_TURN = '\nAssistant:';
const MAX_TOKENS = 256;

/** Sends `body` and returns the response, whose content is still unread. Throws the server's error. */
async function post(path, body) {
  const { request } = API_URL.startsWith('https:') ? https : http;
  const headers = { 'Content-Type': 'application/json', ...(API_KEY && { Authorization: `Bearer ${API_KEY}` }) };
  const response = await new Promise((resolve, reject) => {
    request(API_URL.replace(/\/$/, '') + path, { method: 'POST', headers }, resolve)
      .on('error', reject)
      .end(JSON.stringify(body));
  });
  response.setEncoding('utf8');
  if (response.statusCode === 200) return response;
  const text = await readAll(response);
  let message;
  try {
    ({ message } = JSON.parse(text).error);
  } catch {
    message = `${API_URL} responded with status ${response.statusCode}`;
  }
  throw new Error(message);
}

async function readAll(response) {
  let text = '';
  for await (const part of response) text += part;
  return text;
}

/** The parsed events of a stream. Throws the error of an error event. */
async function* events(response) {
  let rest = '';
  for await (const part of response) {
    const lines = (rest + part).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: ')) continue;
      const data = JSON.parse(line.slice('data: '.length));
      if (data.error) throw new Error(data.error.message);
      yield data;
    }
  }
}

async function chat() {
  // When the conversation exceeds the context, the server keeps the tokens of the preamble.
  const { tokens } = JSON.parse(await readAll(await post('/tokenize', { content: PREAMBLE })));
  let conversation = PREAMBLE;
  let slot = -1;

  /** Sends a line, prints the answer while it streams, and uses the same slot for the next request. */
  const sendLine = async (line) => {
    conversation += USER_TURN + line + ASSISTANT_TURN;
    const response = await post('/completion', {
      prompt: conversation,
      stream: true,
      cache_prompt: true,
      id_slot: slot,
      n_keep: tokens.length,
      n_predict: MAX_TOKENS,
      stop: [USER_TURN.trimEnd()],
      temperature: 0.4,
    });
    for await (const event of events(response)) {
      process.stdout.write(event.content);
      conversation += event.content;
      if (!event.stop) continue;
      slot = event.id_slot ?? -1;
      process.stdout.write('\n');
      return;
    }
    throw new Error('the stream ended before the answer was complete');
  };

  const { isTTY } = process.stdin;
  const prompt = () => isTTY && process.stderr.write('> ');
  if (isTTY) console.error('Type a line; Ctrl+D quits.');
  prompt();
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line !== '') await sendLine(line);
    prompt();
  }
  if (isTTY) console.error();
}

chat().catch((error) => {
  console.error(`chat.mjs: ${error.message || error.code}`);
  process.exitCode = 1;
  process.stdin.destroy();
});
