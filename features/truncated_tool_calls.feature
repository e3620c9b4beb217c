Feature: Truncated tool calls
  A tool call that the token limit ends before its arguments appears neither as text nor as a call.
  The response reports that the limit was reached.

  Scenario Outline: a chat completion omits a tool call truncated after <tokens> tokens
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": <tokens>, "tool_choice": "required",
       "tools": [{"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}}]}
      """
    Then the status is 200
    And the response's "choices.0.message.content" is ""
    And the response has no "choices.0.message.tool_calls"
    And the response's "choices.0.finish_reason" is "length"
    And the response's "usage.completion_tokens" is <tokens>

    Examples:
      | tokens |
      | 1      |
      | 3      |
      | 8      |
      | 12     |

  Scenario Outline: a chat completion stream omits a tool call truncated after <tokens> tokens
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": <tokens>, "tool_choice": "required",
       "tools": [{"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}}]}
      """
    Then the status is 200
    And the streamed reasoning is "" and the streamed content is ""
    And the last event's "choices.0.finish_reason" is "length"
    And the stream ends with [DONE]

    Examples:
      | tokens |
      | 1      |
      | 12     |

  Scenario: a chat completion includes a tool call truncated within its arguments
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": 24, "tool_choice": "required",
       "tools": [{"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string", "minLength": 300}}, "required": ["text"]}}}]}
      """
    Then the response's "choices.0.message.content" is null
    And the response's "choices.0.message.tool_calls.0.function.name" is "write_file"
    And the response's "choices.0.finish_reason" is "length"

  Scenario: /v1/responses omits a truncated tool call
    When I create a response:
      """
      {"input": "w", "temperature": 0, "max_output_tokens": 12, "tool_choice": "required",
       "tools": [{"type": "function", "name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}]}
      """
    Then the status is 200
    And the response's "status" is "incomplete"
    And the response's "incomplete_details.reason" is "max_output_tokens"
    And the response's "output" has 1 entries
    And the response's "output.0.status" is "incomplete"
    And the response's "output.0.content.0.text" is ""

  Scenario: /v1/messages omits a truncated tool call
    When I post to "/v1/messages" as "application/json":
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": 12, "tool_choice": {"type": "any"},
       "tools": [{"name": "write_file", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}]}
      """
    Then the status is 200
    And the response's "content" is [{"text": "", "type": "text"}]
    And the response's "stop_reason" is "max_tokens"

  Scenario: a tool whose parameters schema has no type gets an object of arguments
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60, "temperature": 0, "parallel_tool_calls": false,
       "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"properties": {"city": {"enum": ["Bergen"]}}, "required": ["city"]}}}],
       "tool_choice": "required"}
      """
    Then the response's "choices.0.finish_reason" is "tool_calls"
    And the response's "choices.0.message.tool_calls.0.function.arguments" is "{\"city\": \"Bergen\"}"
