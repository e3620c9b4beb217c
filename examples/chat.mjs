// A conversation with the server in a terminal, for Node 16 or later, without packages: each line is a turn, and the
// end of the input ends it.
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
const MOST_TOKENS = 256;

/** Sends `body` and answers with the response, of which nothing has been read; an error of the server is thrown. */
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
  const text = await whole(response);
  let message;
  try {
    ({ message } = JSON.parse(text).error);
  } catch {
    message = `${API_URL} answered with status ${response.statusCode}`;
  }
  throw new Error(message);
}

async function whole(response) {
  let text = '';
  for await (const part of response) text += part;
  return text;
}

/** The events of a stream, parsed. */
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
  // What is kept of the beginning when the conversation outgrows the context.
  const { tokens } = JSON.parse(await whole(await post('/tokenize', { content: PREAMBLE })));
  let conversation = PREAMBLE;
  let slot = -1;

  /** Prints the answer as it comes; the slot it ran in is asked for again. */
  const answer = async (said) => {
    conversation += USER_TURN + said + ASSISTANT_TURN;
    const response = await post('/completion', {
      prompt: conversation,
      stream: true,
      cache_prompt: true,
      id_slot: slot,
      n_keep: tokens.length,
      n_predict: MOST_TOKENS,
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
    throw new Error('the answer broke off');
  };

  const { isTTY } = process.stdin;
  const prompt = () => isTTY && process.stderr.write('> ');
  if (isTTY) console.error('Write a line; Ctrl+D ends.');
  prompt();
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line !== '') await answer(line);
    prompt();
  }
  if (isTTY) console.error();
}

chat().catch((error) => {
  console.error(`chat.mjs: ${error.message || error.code}`);
  process.exitCode = 1;
  process.stdin.destroy();
});
