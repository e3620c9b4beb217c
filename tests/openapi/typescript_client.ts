// openapi-fetch with the types that openapi-typescript generated (`generated.d.ts`), against the server at $ORTOLAN.
// `expected.ts` lists the operation ids of the document; each must have a type.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import createClient from 'openapi-fetch'
import type { paths } from './generated.js'
import { expected } from './expected.js'

const client = createClient<paths>({ baseUrl: process.env.ORTOLAN })
const question = { role: 'user' as const, content: 'Name the capital of Italy.' }

test('every operation has types', () => {
  // The compiler has checked each operation id.
  assert.ok(expected.length > 30)
})

test('chat completion', async () => {
  const { data, error } = await client.POST('/v1/chat/completions', {
    body: { model: 'any', messages: [question], max_tokens: 24, temperature: 0, store: false }
  })
  assert.equal(error, undefined)
  // The type also allows a stream event, which this response is not.
  assert.ok(data && 'choices' in data)
  assert.match(data.choices[0]?.message.content ?? '', /Rome/)
  assert.equal(data.choices[0]?.finish_reason, 'stop')
})

test('streamed chat completion', async () => {
  const { data } = await client.POST('/v1/chat/completions', {
    body: { model: 'any', messages: [question], max_tokens: 24, temperature: 0, stream: true },
    parseAs: 'stream'
  })
  let text = ''
  const decoder = new TextDecoder()
  for await (const bytes of data as unknown as AsyncIterable<Uint8Array>) text += decoder.decode(bytes, { stream: true })
  assert.match(text, /Rome/)
  assert.match(text, /data: \[DONE\]/)
})

test('an error is typed', async () => {
  const { error, response } = await client.POST('/v1/chat/completions', {
    body: { model: 'any', messages: [question], temperature: 3 }
  })
  assert.equal(response.status, 400)
  assert.equal(error?.error.param, 'temperature')
})

test('messages, responses and completion', async () => {
  const message = await client.POST('/v1/messages', {
    body: { model: 'any', messages: [question], max_tokens: 24, temperature: 0 }
  })
  assert.ok(message.data && 'content' in message.data)
  assert.match(JSON.stringify(message.data.content), /Rome/)
  const response = await client.POST('/v1/responses', {
    body: { model: 'any', input: 'Name the capital of Italy.', max_output_tokens: 24, temperature: 0 }
  })
  assert.ok(response.data && 'status' in response.data)
  assert.equal(response.data.status, 'completed')
  const completion = await client.POST('/completion', {
    body: { prompt: 'The capital of France is', n_predict: 8, temperature: 0 }
  })
  assert.match(JSON.stringify(completion.data), /Paris/)
})

test('path and query parameters', async () => {
  const models = await client.GET('/v1/models')
  const id = models.data?.data[0]?.id ?? ''
  const model = await client.GET('/v1/models/{model}', { params: { path: { model: id } } })
  assert.equal(model.data?.id, id)
  const health = await client.GET('/health', { params: { query: { include_slots: '' } } })
  assert.equal(health.data?.slots?.length, 2)
})
