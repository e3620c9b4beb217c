Feature: Tool calls

  Scenario: tool_choice required forces a tool call
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "function": {"name": "get_weather", "description": "Tells the weather of a place.",
         "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}],
       "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the status is 200
    And the response's "choices.0.finish_reason" is "tool_calls"
    And the response's "choices.0.message.content" is null
    And the response's "choices.0.message.tool_calls" has 1 entries
    And the response's "choices.0.message.tool_calls.0.type" is "function"
    And the response's "choices.0.message.tool_calls.0.id" matches "[a-zA-Z0-9]{9}"
    And the response's "choices.0.message.tool_calls.0.function.name" is "get_weather"
    And the response's "choices.0.message.tool_calls.0.function.arguments" is JSON that validates against:
      """
      {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": false}
      """
    And the token counts in usage add up

  Scenario: a tool call is streamed
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "function": {"name": "get_weather",
         "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}],
       "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the status is 200
    And the first event's "choices.0.delta.role" is "assistant"
    And the stream calls "get_weather" with arguments that validate against:
      """
      {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": false}
      """
    And the last event's "choices.0.finish_reason" is "tool_calls"
    And the stream ends with [DONE]

  Scenario: tool_choice with a function forces a tool call of that function
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60,
       "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}}},
                 {"type": "function", "function": {"name": "now"}}],
       "tool_choice": {"type": "function", "function": {"name": "now"}}}
      """
    Then the status is 200
    And the response's "choices.0.message.tool_calls" has 1 entries
    And the response's "choices.0.message.tool_calls.0.function.name" is "now"
    And the response's "choices.0.message.tool_calls.0.function.arguments" is "{}"
    And the response's "choices.0.finish_reason" is "tool_calls"

  Scenario: tool_choice allowed_tools restricts tool calls to the listed tools
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60,
       "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}}},
                 {"type": "function", "function": {"name": "now"}}],
       "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}},
       "parallel_tool_calls": false}
      """
    Then the status is 200
    And the response's "choices.0.message.tool_calls.0.function.name" is "now"

  Scenario: tool_choice none prevents tool calls
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0,
       "tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "none"}
      """
    Then the status is 200
    And the response has no "choices.0.message.tool_calls"
    And the response's "choices.0.message.content" contains "Rome"
    And the response's "usage.prompt_tokens" is 36

  Scenario: tool_choice auto allows a tool call
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Say: <tool_call>"}, {"role": "assistant", "content": "<tool_call>"},
                    {"role": "user", "content": "Say: <tool_call>"}, {"role": "assistant", "content": "<tool_call>"},
                    {"role": "user", "content": "Say: <tool_call>"}],
       "tools": [{"type": "function", "function": {"name": "now"}}], "max_tokens": 60, "temperature": 0, "parallel_tool_calls": false}
      """
    Then the status is 200
    And the response's "choices.0.finish_reason" is "tool_calls"
    And the response's "choices.0.message.tool_calls.0.function.name" is "now"
    And the response's "choices.0.message.tool_calls.0.function.arguments" is "{}"

  Scenario: tool_choice auto allows text without a tool call
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Say: yes"}, {"role": "assistant", "content": "yes"},
                    {"role": "user", "content": "Say: no"}, {"role": "assistant", "content": "no"},
                    {"role": "user", "content": "Say: yes"}],
       "tools": [{"type": "function", "function": {"name": "now"}}], "max_tokens": 60, "temperature": 0}
      """
    Then the status is 200
    And the response has no "choices.0.message.tool_calls"
    And the response's "choices.0.message.content" contains "yes"

  Scenario: unsupported tools are ignored and listed in x-ortolan-ignored
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "What time is it?"}], "max_tokens": 60, "temperature": 0,
       "tools": [{"type": "custom", "custom": {"name": "apply_patch", "format": {"type": "grammar"}}},
                 {"type": "function", "function": {"name": "mcp__a.b:c__a-long-name-of-more-than-sixty-four-characters/of-another-server@1"}},
                 {"type": "web_search", "function": 5, "filters": {"allowed_domains": ["a"]}}],
       "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
         {"type": "function", "function": {"name": "mcp__a.b:c__a-long-name-of-more-than-sixty-four-characters/of-another-server@1"}}, {"type": "custom"}]}},
       "parallel_tool_calls": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "tool_choice.allowed_tools.tools.1,tools.0,tools.2"
    And the response's "choices.0.message.tool_calls.0.function.name" is "mcp__a.b:c__a-long-name-of-more-than-sixty-four-characters/of-another-server@1"

  Scenario: 100 forced tool calls at temperature 1 have valid arguments
    When I request 100 forced tool calls at temperature 1
    Then each call names its function and has valid arguments, and at least 9 of 10 differ

  Scenario: /apply-template renders tool calls and tool results
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "user", "content": "What time is it?"},
                    {"role": "assistant", "content": null, "tool_calls": [{"id": "abc", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "abc", "content": "12:30"}],
       "tools": [{"type": "function", "function": {"name": "now"}}]}
      """
    Then the status is 200
    And the response's "prompt" contains '{"type":"function","function":{"name":"now","parameters":{"type":"object","properties":{}}}}'
    And the response's "prompt" contains '{"name": "now", "arguments": {}}'
    And the response's "prompt" contains "<tool_response>"
    And the response's "prompt" does not contain "<|im_start|>tool"

  Scenario Outline: an invalid tool or tool_choice is rejected: <param>: <problem>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], <field>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<problem>"

    Examples:
      | param                    | problem                                        | field |
      | tools.0.function         | it is required                                 | "tools": [{"type": "function"}] |
      | tool_choice.type         | is not supported: only functions can be called | "tools": [{"type": "custom", "custom": {"name": "a"}}], "tool_choice": {"type": "custom", "custom": {"name": "a"}} |
      | tool_choice              | the request has no callable tools              | "tools": [{"type": "web_search"}], "tool_choice": "required" |
      | tool_choice.allowed_tools.tools.0.type | is not supported: only functions | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "a"}}]}} |
      | tools.0.function.name    | does not match                                 | "tools": [{"type": "function", "function": {"name": "a b"}}] |
      | tools.1.function.name    | duplicate function name 'a'                    | "tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}] |
      | tools                    | Invalid schema for function 'a': /not: not cannot be enforced | "tools": [{"type": "function", "function": {"name": "a", "strict": true, "parameters": {"not": {"const": 2}}}}] |
      | tool_choice              | the request has no callable tools              | "tool_choice": "required" |
      | tool_choice              | tool not found: 'b'                            | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "function", "function": {"name": "b"}} |
      | tool_choice.function     | it is required                                 | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "function"} |
      | tool_choice.allowed_tools | it is required                                | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "allowed_tools"} |
      | tool_choice              | sometimes                                      | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": "sometimes" |
      | regex                    | tools and regex cannot both be set             | "tools": [{"type": "function", "function": {"name": "a"}}], "regex": "a" |

  Scenario Outline: an invalid message is rejected: <messages>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": <messages>}
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | param                            | messages |
      | messages.0.content               | [{"role": "user"}] |
      | messages.0.tool_calls            | [{"role": "user", "content": "a", "tool_calls": [{"id": "b", "type": "function", "function": {"name": "c", "arguments": "{}"}}]}] |
      | messages.0.tool_calls            | [{"role": "assistant", "content": "a", "tool_calls": [{"id": "b", "type": "function", "function": {"name": "c", "arguments": "{}"}}]}] |
      | messages.0.tool_calls.0.function | [{"role": "assistant", "tool_calls": [{"id": "b", "type": "function"}]}] |
