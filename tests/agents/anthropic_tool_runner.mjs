// The tool runner of Anthropic's Node library against the server at $ORTOLAN, whose model calls `get_weather`.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

// Unlike `import`, `require` resolves packages through NODE_PATH.
const require = createRequire(import.meta.url)
const { default: Anthropic } = require('@anthropic-ai/sdk')
const { betaTool } = require('@anthropic-ai/sdk/helpers/beta/json-schema')

const client = new Anthropic({ baseURL: process.env.ORTOLAN, apiKey: 'none' })

function runner(stream) {
  const cities = []
  const weather = betaTool({
    name: 'get_weather',
    description: 'Get the weather.',
    inputSchema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    run: ({ city }) => {
      cities.push(city)
      return `rain in ${city}`
    }
  })
  const messages = [{ role: 'user', content: 'How is the weather in Rome?' }]
  return [cities, client.beta.messages.toolRunner({ model: 'any', max_tokens: 100, tools: [weather], messages, stream })]
}

function check(cities, messages) {
  assert.deepEqual(cities, ['Rome'])
  assert.deepEqual(messages.map(message => message.stop_reason), ['tool_use', 'end_turn'])
  assert.equal(messages.at(-1).content.at(-1).text, 'It rains in Rome.')
}

test('the model answers with the tool result', async () => {
  const [cities, turns] = runner(false)
  const messages = []
  for await (const message of turns) messages.push(message)
  check(cities, messages)
})

test('the model answers with the tool result when streaming', async () => {
  const [cities, turns] = runner(true)
  const messages = []
  for await (const stream of turns) messages.push(await stream.finalMessage())
  check(cities, messages)
})
