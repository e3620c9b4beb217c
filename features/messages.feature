Feature: Messages as with Anthropic's API

  Scenario: The whole message
    When I post to "/v1/messages" as "application/json":
      """
      {"model": "any", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Name the capital of Italy."}]}
      """
    Then the status is 200
    And the answer's "type" is "message"
    And the answer's "role" is "assistant"
    And the answer's "model" is "smollm2"
    And the answer's "content" has 1 entries
    And the answer's "content.0.type" is "text"
    And the answer's "content.0.text" contains "Rome"
    And the answer's "stop_reason" is "end_turn"
    And the answer's "stop_sequence" is null
    And the answer's "usage.cache_creation_input_tokens" is 0

  Scenario: As it comes
    When I stream a message:
      """
      {"max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Name the capital of Italy."}]}
      """
    Then the status is 200
    And every event is named as its type
    And the first piece's "type" is "message_start"
    And the first piece's "message.stop_reason" is null
    And the first piece's "message.usage.input_tokens" is 36
    And the blocks of the stream are one text that contains "Rome"
    And the last piece's "type" is "message_stop"

  Scenario: A system prompt, blocks, and a limit
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 3, "temperature": 0, "system": [{"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}}],
       "messages": [{"role": "user", "content": [{"type": "text", "text": "Tell a "}, {"type": "text", "text": "story."}]}]}
      """
    Then the status is 200
    And the answer's "stop_reason" is "max_tokens"
    And the answer's "usage.output_tokens" is 3
    And the header "x-ortolan-ignored" is "system.0.cache_control"

  Scenario: A text that ends it
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "stop_sequences": [" "], "messages": [{"role": "user", "content": "Count: 1, 2, 3"}]}
      """
    Then the answer's "stop_reason" is "stop_sequence"
    And the answer's "stop_sequence" is " "

  Scenario: A tool that must be used
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "tools": [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}},
                 {"name": "now", "input_schema": {"type": "object"}}],
       "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And the answer's "stop_reason" is "tool_use"
    And the answer's "content" has 1 entries
    And the answer's "content.0.type" is "tool_use"
    And the answer's "content.0.name" is "get_weather"
    And the answer's "content.0.input.city" is one of "Bergen" or "Bari"

  Scenario: A tool's use that is cut has no input
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 30, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"city": {"type": "string", "minLength": 300}}, "required": ["city"]}}],
       "tool_choice": {"type": "tool", "name": "f"}}
      """
    Then the answer's "stop_reason" is "max_tokens"
    And the answer's "content.0.name" is "f"
    And the answer's "content.0.input" is {}

  Scenario: A prompt that is too long is told as Anthropic tells it
    Given a server with contexts of 64 tokens
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n o p q r s t u v w x y z"}]}
      """
    Then the status is 400
    And the error says "prompt is too long: "

  Scenario: A tool's use as it comes
    When I stream a message:
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "tools": [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Bergen"]}}, "required": ["city"]}}],
       "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And every event is named as its type
    And the blocks of the stream are one use of "get_weather" with '{"city": "Bergen"}'

  Scenario: What came of a tool
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "messages": [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "id": "a", "name": "now", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "12:30"}]}]}],
       "tools": [{"name": "now", "input_schema": {"type": "object"}}], "tool_choice": {"type": "none"}}
      """
    Then the status is 200
    And the answer's "content.0.type" is "text"

  Scenario: How many tokens a conversation has
    When I post to "/v1/messages/count_tokens" as "application/json":
      """
      {"model": "any", "messages": [{"role": "user", "content": "Name the capital of Italy."}]}
      """
    Then the status is 200
    And the answer's "input_tokens" is 36

  Scenario Outline: What cannot be is refused in Anthropic's words: <problem>
    When I post to "/v1/messages" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the answer's "type" is "error"
    And the answer's "error.type" is "invalid_request_error"
    And the error says "<problem>"

    Examples:
      | problem                                  | body |
      | max_tokens: it is required               | {"messages": [{"role": "user", "content": "a"}]} |
      | messages: [] has less than 1 item        | {"max_tokens": 1, "messages": []} |
      | messages.0.content.0.text                | {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text"}]}]} |
      | messages.0.content.0.type                | {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]} |
      | has no tool_use                          | {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]} |
      | has no tool_result                       | {"max_tokens": 1, "messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]} |
      | tool_result blocks must follow           | {"max_tokens": 1, "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]} |
      | tools.1.name: another function           | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "input_schema": {}}, {"name": "a", "input_schema": {}}]} |
      | tool_choice.name: there is no tool       | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "b"}} |
      | tool_choice.name: it is required         | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "tool"}} |
      | there are no tools to choose from        | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tool_choice": {"type": "any"}} |
      | input_schema of function                 | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "strict": true, "input_schema": {"not": {"const": 2}}}]} |
      | thinking.budget_tokens                   | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "thinking": {"type": "enabled", "budget_tokens": 1024}} |

  Scenario: Without a key, in Anthropic's words
    Given a server with the keys "first" and "second"
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
      """
    Then the status is 401
    And the answer's "error.type" is "authentication_error"
