// The tool runner of Anthropic's library for Node against the server at ORTOLAN, whose model calls `get_weather`.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

// Unlike `import`, this finds libraries by NODE_PATH.
const require = createRequire(import.meta.url)
const { default: Anthropic } = require('@anthropic-ai/sdk')
const { betaTool } = require('@anthropic-ai/sdk/helpers/beta/json-schema')

const client = new Anthropic({ baseURL: process.env.ORTOLAN, apiKey: 'none' })

function runner(stream) {
  const asked = []
  const weather = betaTool({
    name: 'get_weather',
    description: 'Get the weather.',
    inputSchema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    run: ({ city }) => {
      asked.push(city)
      return `rain in ${city}`
    }
  })
  const messages = [{ role: 'user', content: 'How is the weather in Rome?' }]
  return [asked, client.beta.messages.toolRunner({ model: 'any', max_tokens: 100, tools: [weather], messages, stream })]
}

function check(asked, messages) {
  assert.deepEqual(asked, ['Rome'])
  assert.deepEqual(messages.map(message => message.stop_reason), ['tool_use', 'end_turn'])
  assert.equal(messages.at(-1).content.at(-1).text, 'It rains in Rome.')
}

test('the tool runs and its result is answered', async () => {
  const [asked, turns] = runner(false)
  const messages = []
  for await (const message of turns) messages.push(message)
  check(asked, messages)
})

test('the same streamed', async () => {
  const [asked, turns] = runner(true)
  const messages = []
  for await (const stream of turns) messages.push(await stream.finalMessage())
  check(asked, messages)
})
