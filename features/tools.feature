Feature: Functions that the model may call

  Scenario: A call that must be
    When I chat:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "function": {"name": "get_weather", "description": "Tells the weather of a place.",
         "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}],
       "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the status is 200
    And the answer's "choices.0.finish_reason" is "tool_calls"
    And the answer's "choices.0.message.content" is null
    And the answer's "choices.0.message.tool_calls" has 1 entries
    And the answer's "choices.0.message.tool_calls.0.type" is "function"
    And the answer's "choices.0.message.tool_calls.0.id" follows "[a-zA-Z0-9]{9}"
    And the answer's "choices.0.message.tool_calls.0.function.name" is "get_weather"
    And the answer's "choices.0.message.tool_calls.0.function.arguments" is JSON that is valid for:
      """
      {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": false}
      """
    And the answer's tokens add up

  Scenario: A call as it comes
    When I stream a chat:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "function": {"name": "get_weather",
         "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}],
       "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the status is 200
    And the first piece's "choices.0.delta.role" is "assistant"
    And the pieces call "get_weather" with JSON that is valid for:
      """
      {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": false}
      """
    And the last piece's "choices.0.finish_reason" is "tool_calls"
    And the stream ends with [DONE]

  Scenario: A call by name, once
    When I chat:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60,
       "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}}},
                 {"type": "function", "function": {"name": "now"}}],
       "tool_choice": {"type": "function", "function": {"name": "now"}}}
      """
    Then the status is 200
    And the answer's "choices.0.message.tool_calls" has 1 entries
    And the answer's "choices.0.message.tool_calls.0.function.name" is "now"
    And the answer's "choices.0.message.tool_calls.0.function.arguments" is "{}"
    And the answer's "choices.0.finish_reason" is "tool_calls"

  Scenario: One of some
    When I chat:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60,
       "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}}},
                 {"type": "function", "function": {"name": "now"}}],
       "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}},
       "parallel_tool_calls": false}
      """
    Then the status is 200
    And the answer's "choices.0.message.tool_calls.0.function.name" is "now"

  Scenario: No call where none may be
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0,
       "tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "none"}
      """
    Then the status is 200
    And the answer has no "choices.0.message.tool_calls"
    And the answer's "choices.0.message.content" contains "Rome"
    And the answer's "usage.prompt_tokens" is 36

  Scenario: The model calls if it likes
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Say: <tool_call>"}, {"role": "assistant", "content": "<tool_call>"},
                    {"role": "user", "content": "Say: <tool_call>"}, {"role": "assistant", "content": "<tool_call>"},
                    {"role": "user", "content": "Say: <tool_call>"}],
       "tools": [{"type": "function", "function": {"name": "now"}}], "max_tokens": 60, "temperature": 0, "parallel_tool_calls": false}
      """
    Then the status is 200
    And the answer's "choices.0.finish_reason" is "tool_calls"
    And the answer's "choices.0.message.tool_calls.0.function.name" is "now"
    And the answer's "choices.0.message.tool_calls.0.function.arguments" is "{}"

  Scenario: The model says something if it likes
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Say: yes"}, {"role": "assistant", "content": "yes"},
                    {"role": "user", "content": "Say: no"}, {"role": "assistant", "content": "no"},
                    {"role": "user", "content": "Say: yes"}],
       "tools": [{"type": "function", "function": {"name": "now"}}], "max_tokens": 60, "temperature": 0}
      """
    Then the status is 200
    And the answer has no "choices.0.message.tool_calls"
    And the answer's "choices.0.message.content" contains "yes"

  Scenario: Tools of other types are left out and reported
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
    And the answer's "choices.0.message.tool_calls.0.function.name" is "mcp__a.b:c__a-long-name-of-more-than-sixty-four-characters/of-another-server@1"

  Scenario: Many calls, however wild the choice
    When I force 100 calls at a temperature of 1
    Then each call is of its function, valid, and of its own kind

  Scenario: A conversation with calls, written as any
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "user", "content": "What time is it?"},
                    {"role": "assistant", "content": null, "tool_calls": [{"id": "abc", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "abc", "content": "12:30"}],
       "tools": [{"type": "function", "function": {"name": "now"}}]}
      """
    Then the status is 200
    And the answer's "prompt" contains '{"type":"function","function":{"name":"now","parameters":{"type":"object","properties":{}}}}'
    And the answer's "prompt" contains '{"name": "now", "arguments": {}}'
    And the answer's "prompt" contains "<tool_response>"
    And the answer's "prompt" does not contain "<|im_start|>tool"

  Scenario Outline: What cannot be called is refused: <param>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], <field>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<problem>"

    Examples:
      | param                    | problem                                        | field |
      | tools.0.function         | it is required                                 | "tools": [{"type": "function"}] |
      | tool_choice.type         | is not supported: only functions can be called | "tools": [{"type": "custom", "custom": {"name": "a"}}], "tool_choice": {"type": "custom", "custom": {"name": "a"}} |
      | tool_choice              | there are no tools to choose from              | "tools": [{"type": "web_search"}], "tool_choice": "required" |
      | tool_choice.allowed_tools.tools.0.type | is not supported: only functions | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "a"}}]}} |
      | tools.0.function.name    | does not match                                 | "tools": [{"type": "function", "function": {"name": "a b"}}] |
      | tools.1.function.name    | another function is called 'a', too            | "tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}] |
      | tools                    | Invalid schema for function 'a': /not: not cannot be enforced | "tools": [{"type": "function", "function": {"name": "a", "strict": true, "parameters": {"not": {"const": 2}}}}] |
      | tool_choice              | there are no tools to choose from              | "tool_choice": "required" |
      | tool_choice              | there is no function 'b' among the tools       | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "function", "function": {"name": "b"}} |
      | tool_choice.function     | it is required                                 | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "function"} |
      | tool_choice.allowed_tools | it is required                                | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "allowed_tools"} |
      | tool_choice              | sometimes                                      | "tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": "sometimes" |
      | regex                    | a text cannot follow both tools and regex      | "tools": [{"type": "function", "function": {"name": "a"}}], "regex": "a" |

  Scenario Outline: Messages that do not fit are refused: <param>
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
