// OpenAI's Node library against the server at $ORTOLAN; only the address is configured.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const OpenAI = require('openai')

const client = new OpenAI({ baseURL: `${process.env.ORTOLAN}/v1`, apiKey: 'none' })
const messages = [{ role: 'user', content: 'Name the capital of Italy.' }]
const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string', maxLength: 12 } },
      required: ['city'],
      additionalProperties: false
    }
  }
}
const call = { tools: [weather], tool_choice: 'required', parallel_tool_calls: false, max_tokens: 80 }

test('chat completion', async () => {
  const response = await client.chat.completions.create({ model: 'any', messages, max_tokens: 24, temperature: 0 })
  assert.match(response.choices[0].message.content, /Rome/)
  assert.equal(response.choices[0].finish_reason, 'stop')
})

test('streamed chat completion', async () => {
  const stream = await client.chat.completions.create({
    model: 'any', messages, max_tokens: 24, temperature: 0, stream: true, stream_options: { include_usage: true }
  })
  let text = ''
  let usage
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? ''
    usage = chunk.usage
  }
  assert.match(text, /Rome/)
  assert.equal(usage.prompt_tokens, 36)
})

test('tool call, complete and streamed', async () => {
  const response = await client.chat.completions.create({ model: 'any', messages, ...call })
  const [callItem] = response.choices[0].message.tool_calls
  assert.deepEqual(Object.keys(JSON.parse(callItem.function.arguments)), ['city'])
  const stream = client.chat.completions.stream({ model: 'any', messages, ...call })
  const { choices } = await stream.finalChatCompletion()
  assert.equal(choices[0].finish_reason, 'tool_calls')
  assert.deepEqual(Object.keys(JSON.parse(choices[0].message.tool_calls[0].function.arguments)), ['city'])
})

test('structured output follows the schema', async () => {
  const schema = {
    type: 'object',
    properties: { name: { type: 'string', maxLength: 12 }, sings: { type: 'boolean' } },
    required: ['name', 'sings'],
    additionalProperties: false
  }
  const response = await client.chat.completions.parse({
    model: 'any', messages, max_tokens: 80,
    response_format: { type: 'json_schema', json_schema: { name: 'bird', strict: true, schema } }
  })
  assert.deepEqual(Object.keys(JSON.parse(response.choices[0].message.content)), ['name', 'sings'])
})

test('embeddings and completions', async () => {
  const { data } = await client.embeddings.create({ model: 'any', input: ['rain', 'snow'] })
  assert.deepEqual(data.map(({ embedding }) => embedding.length), [576, 576])
  const response = await client.completions.create({
    model: 'any', prompt: 'The capital of France is', max_tokens: 8, temperature: 0
  })
  assert.match(response.choices[0].text, /Paris/)
})

test('a response is created, retrieved, continued and deleted', async () => {
  const options = { model: 'any', max_output_tokens: 24, temperature: 0 }
  const response = await client.responses.create({ ...options, input: messages })
  assert.match(response.output_text, /Rome/)
  assert.deepEqual((await client.responses.retrieve(response.id)).output, response.output)
  const next = await client.responses.create({ ...options, input: 'And of France?', previous_response_id: response.id })
  assert.match(next.output_text, /Paris/)
  const { data } = await client.responses.inputItems.list(next.id)
  assert.deepEqual(data.map(({ role }) => role), ['user', 'assistant', 'user'])
  await client.responses.delete(response.id)
  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError)
})

test('streamed response', async () => {
  const stream = await client.responses.create({
    model: 'any', input: messages, max_output_tokens: 24, temperature: 0, stream: true
  })
  let text = ''
  let last
  for await (const event of stream) {
    if (event.type === 'response.output_text.delta') text += event.delta
    last = event
  }
  assert.match(text, /Rome/)
  assert.equal(last.response.status, 'completed')
  const final = await client.responses.stream({
    model: 'any', input: messages, max_output_tokens: 24, temperature: 0
  }).finalResponse()
  assert.equal(final.output_text, text)
})

test('a response calls a tool and receives its result', async () => {
  const tool = { type: 'function', strict: true, ...weather.function }
  const options = { model: 'any', tools: [tool], max_output_tokens: 80 }
  const response = await client.responses.create({
    ...options, input: messages, tool_choice: 'required', parallel_tool_calls: false
  })
  const [callItem] = response.output
  assert.deepEqual(Object.keys(JSON.parse(callItem.arguments)), ['city'])
  const result = { type: 'function_call_output', call_id: callItem.call_id, output: 'rain' }
  const next = await client.responses.create({
    ...options, input: [...messages, ...response.output, result], tool_choice: 'none', store: false
  })
  assert.equal(next.output[0].type, 'message')
})

test('each error has its exception class', async () => {
  await assert.rejects(client.models.retrieve('gpt-5'), OpenAI.NotFoundError)
  await assert.rejects(client.chat.completions.create({ model: 'any', messages: [] }), OpenAI.BadRequestError)
})
