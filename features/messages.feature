Feature: Anthropic Messages API

  Scenario: a non-streaming response has the message
    When I post to "/v1/messages" as "application/json":
      """
      {"model": "any", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Name the capital of Italy."}]}
      """
    Then the status is 200
    And the response's "type" is "message"
    And the response's "role" is "assistant"
    And the response's "model" is "smollm2"
    And the response's "content" has 1 entries
    And the response's "content.0.type" is "text"
    And the response's "content.0.text" contains "Rome"
    And the response's "stop_reason" is "end_turn"
    And the response's "stop_sequence" is null
    And the response's "usage.cache_creation_input_tokens" is 0

  Scenario: a stream has Anthropic's event sequence
    When I stream a message:
      """
      {"max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Name the capital of Italy."}]}
      """
    Then the status is 200
    And every event's name is its type
    And the first event's "type" is "message_start"
    And the first event's "message.stop_reason" is null
    And the first event's "message.usage.input_tokens" is 36
    And the stream has one text block, which contains "Rome"
    And the last event's "type" is "message_stop"

  Scenario: a system prompt, content blocks, and max_tokens are accepted
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 3, "temperature": 0, "system": [{"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}}],
       "messages": [{"role": "user", "content": [{"type": "text", "text": "Tell a "}, {"type": "text", "text": "story."}]}]}
      """
    Then the status is 200
    And the response's "stop_reason" is "max_tokens"
    And the response's "usage.output_tokens" is 3
    And the header "x-ortolan-ignored" is "system.0.cache_control"

  Scenario: stop_reason is stop_sequence when a stop sequence is generated
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "stop_sequences": [" "], "messages": [{"role": "user", "content": "Count: 1, 2, 3"}]}
      """
    Then the response's "stop_reason" is "stop_sequence"
    And the response's "stop_sequence" is " "

  Scenario: tool_choice with a tool forces a tool_use block of that tool
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "tools": [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}},
                 {"name": "now", "input_schema": {"type": "object"}}],
       "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And the response's "stop_reason" is "tool_use"
    And the response's "content" has 1 entries
    And the response's "content.0.type" is "tool_use"
    And the response's "content.0.name" is "get_weather"
    And the response's "content.0.input.city" is one of "Bergen" or "Bari"

  Scenario: a truncated tool_use block has an empty input
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 30, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"city": {"type": "string", "minLength": 300}}, "required": ["city"]}}],
       "tool_choice": {"type": "tool", "name": "f"}}
      """
    Then the response's "stop_reason" is "max_tokens"
    And the response's "content.0.name" is "f"
    And the response's "content.0.input" is {}

  Scenario: a prompt longer than the context gets Anthropic's error message
    Given a server with contexts of 64 tokens
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n o p q r s t u v w x y z"}]}
      """
    Then the status is 400
    And the error message contains "prompt is too long: "

  Scenario: a tool_use block is streamed
    When I stream a message:
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "tools": [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Bergen"]}}, "required": ["city"]}}],
       "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And every event's name is its type
    And the stream has one tool_use block, which calls "get_weather" with '{"city": "Bergen"}'

  Scenario: a tool_result block is accepted as input
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "messages": [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "id": "a", "name": "now", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "12:30"}]}]}],
       "tools": [{"name": "now", "input_schema": {"type": "object"}}], "tool_choice": {"type": "none"}}
      """
    Then the status is 200
    And the response's "content.0.type" is "text"

  Scenario: /v1/messages/count_tokens counts the input tokens
    When I post to "/v1/messages/count_tokens" as "application/json":
      """
      {"model": "any", "messages": [{"role": "user", "content": "Name the capital of Italy."}]}
      """
    Then the status is 200
    And the response's "input_tokens" is 36

  Scenario Outline: an invalid request gets an error in Anthropic's format: <problem>
    When I post to "/v1/messages" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the response's "type" is "error"
    And the response's "error.type" is "invalid_request_error"
    And the error message contains "<problem>"

    Examples:
      | problem                                  | body |
      | max_tokens: it is required               | {"messages": [{"role": "user", "content": "a"}]} |
      | messages: [] has less than 1 item        | {"max_tokens": 1, "messages": []} |
      | messages.0.content.0.text                | {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text"}]}]} |
      | messages.0.content.0.type                | {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]} |
      | cannot contain tool_use                  | {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]} |
      | cannot contain tool_result               | {"max_tokens": 1, "messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]} |
      | each tool_use block must be followed     | {"max_tokens": 1, "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]} |
      | tools.1.name: duplicate function name    | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "input_schema": {}}, {"name": "a", "input_schema": {}}]} |
      | tool_choice.name: tool not found         | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "b"}} |
      | tool_choice.name: it is required         | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "tool"}} |
      | the request has no callable tools        | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tool_choice": {"type": "any"}} |
      | input_schema of function                 | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"name": "a", "strict": true, "input_schema": {"not": {"const": 2}}}]} |
      | thinking.budget_tokens                   | {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "thinking": {"type": "enabled", "budget_tokens": 1024}} |

  Scenario: a request without an API key gets authentication_error
    Given a server with the API keys "first" and "second"
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
      """
    Then the status is 401
    And the response's "error.type" is "authentication_error"

  Scenario Outline: the text follows the JSON schema of output_config or output_format: <field>
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "Where is Bergen?"}], <field>}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is missing
    And the response's "stop_reason" is "end_turn"
    And the response's "content" has 1 entries
    And the response's "content.0.text" is JSON that validates against:
      """
      {"type": "object", "properties": {"country": {"enum": ["Norway", "Italy"]}}, "required": ["country"], "additionalProperties": false}
      """

    Examples:
      | field |
      | "output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {"country": {"enum": ["Norway", "Italy"]}}, "required": ["country"], "additionalProperties": false}}} |
      | "output_format": {"type": "json_schema", "schema": {"type": "object", "properties": {"country": {"enum": ["Norway", "Italy"]}}, "required": ["country"], "additionalProperties": false}} |

  Scenario: a streamed text follows the JSON schema of output_config
    When I stream a message:
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "Where is Bergen?"}],
       "output_config": {"format": {"type": "json_schema", "schema": {"const": {"country": "Norway"}}}}}
      """
    Then the status is 200
    And the stream has one text block, which contains "Norway"

  Scenario: the text follows the JSON schema of output_config if tool calls are optional
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "tools": [{"name": "now", "input_schema": {"type": "object"}}],
       "messages": [{"role": "user", "content": "Say: yes"}, {"role": "assistant", "content": "\"yes\""}, {"role": "user", "content": "Say: no"},
                    {"role": "assistant", "content": "\"no\""}, {"role": "user", "content": "Say: yes"}],
       "output_config": {"format": {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}}}
      """
    Then the status is 200
    And the response's "stop_reason" is "end_turn"
    And the response's "content.0.text" is "\"yes\""

  Scenario: tool_choice any takes precedence over the JSON schema of output_config
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What time is it?"}],
       "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
       "tools": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}],
       "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the response's "stop_reason" is "tool_use"
    And the response's "content.0.name" is "now"

  Scenario: thread is rejected with the error code thread_unsupported_request
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}], "thread": {"type": "create"}}
      """
    Then the status is 400
    And the response's "error.type" is "invalid_request_error"
    And the response's "error.details" is {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    And the error message contains "thread: threads are not supported"
    And the response's "request_id" matches "[0-9a-f]{32}"
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}], "thread": null}
      """
    Then the status is 200

  Scenario: a system message between other messages is accepted
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "go on"}]}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is missing

  Scenario: a trailing assistant message is continued
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "stop_sequences": ["."],
       "messages": [{"role": "user", "content": "Name the capital of Italy."}, {"role": "assistant", "content": "The capital of Italy is"}]}
      """
    Then the status is 200
    And the response's "content.0.text" is " Rome"

  Scenario: server tools are ignored and listed in x-ortolan-ignored
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Bergen?"}],
       "mcp_servers": [{"type": "url", "url": "http://example.com", "name": "a"}],
       "tools": [{"type": "web_search_20250305", "name": "web_search"}, {"type": "mcp_toolset", "mcp_server_name": "a"},
                 {"type": "custom", "name": "mcp__plugin_chrome-devtools-mcp_chrome-devtools__get_console_message", "input_schema": {"type": "object", "properties": {}}}],
       "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "mcp_servers,tools.0,tools.1"
    And the response's "content.0.name" is "mcp__plugin_chrome-devtools-mcp_chrome-devtools__get_console_message"

  Scenario: server tool blocks of earlier messages are ignored and listed in x-ortolan-ignored
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "messages": [
        {"role": "user", "content": "What is new in Bergen?"},
        {"role": "assistant", "content": [
          {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
          {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Bergen"}},
          {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result", "url": "http://example.com", "title": "Bergen", "encrypted_content": "abc", "page_age": null}]},
          {"type": "text", "text": "It rains.", "citations": [{"type": "web_search_result_location", "url": "http://example.com", "title": "Bergen", "encrypted_index": "a", "cited_text": "rain"}]}]},
        {"role": "user", "content": [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "It rains 200 days a year."}, "title": "Weather"}, {"type": "text", "text": "How often?"}]}]}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "messages.1.content.0.signature,messages.1.content.3.citations,messages.1.content.1,messages.1.content.2"

  Scenario Outline: max_tokens and top_k accept a value without a limit: <fields>
    When I post to "/v1/messages" as "application/json":
      """
      {<fields>, "temperature": 0, "stop_sequences": [" "], "messages": [{"role": "user", "content": "Count: 1, 2, 3"}]}
      """
    Then the status is 200
    And the response's "stop_reason" is "<reason>"
    And the header "x-ortolan-ignored" is missing

    Examples:
      | fields                          | reason        |
      | "max_tokens": 0                 | max_tokens    |
      | "max_tokens": -1                | stop_sequence |
      | "max_tokens": 60, "top_k": -1   | stop_sequence |

  Scenario: request fields without effect are listed in x-ortolan-ignored
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "metadata": {"user_id": "a"}, "service_tier": "auto", "speed": "fast",
       "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "container": "c", "inference_geo": "eu",
       "cache_control": {"type": "ephemeral"}, "betas": ["a"], "output_config": {"effort": "high"}, "thinking": {"type": "adaptive"},
       "tools": [{"name": "a", "input_schema": {}, "defer_loading": true, "eager_input_streaming": true}], "new": 1}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "metadata,service_tier,speed,context_management,container,inference_geo,cache_control,betas,tools.0.defer_loading,new,output_config.effort"

  Scenario: request fields without effect are accepted with any value
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": "x", "citations": 1}]}],
       "metadata": "x", "service_tier": 1, "context_management": [1], "fallbacks": ["x"], "mcp_servers": {}, "container": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "messages.0.content.0.cache_control,messages.0.content.0.citations,metadata,service_tier,context_management,fallbacks,mcp_servers,container"

  Scenario: /v1/messages/count_tokens accepts a request body of /v1/messages
    When I post to "/v1/messages/count_tokens" as "application/json":
      """
      {"model": "any", "system": [], "messages": [{"role": "user", "content": "Name the capital of Italy."}],
       "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}}
      """
    Then the status is 200
    And the response's "input_tokens" is 36
    And the header "x-ortolan-ignored" is "tools.0"

  Scenario Outline: the error names the unsupported field: <problem>
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": <content>}]<fields>}
      """
    Then the status is 400
    And the error message contains "<problem>"

    Examples:
      | problem                                               | content | fields |
      | messages.0.content.0.type: images are not supported   | [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}] | |
      | messages.0.content.0.source.type: base64 documents    | [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}] | |
      | (tools.0) is a web_search_20250305, which this server | "a" | , "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "tool", "name": "web_search"} |
      | tool_choice: tools.0 is a bash_20250124               | "a" | , "tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"} |
      | compaction: the server does not summarize             | "a" | , "compaction": {"type": "summarize"} |
      | output_config.format.schema: it is required           | "a" | , "output_config": {"format": {"type": "json_schema"}} |
      | output_config.format.schema                           | "a" | , "output_config": {"format": {"type": "json_schema", "schema": {"type": 5}}} |
      | output_format cannot both be set                      | "a" | , "output_format": {"type": "json_schema", "schema": {}}, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}} |
      | output_config.format.type                             | "a" | , "output_config": {"format": {"type": "regex", "pattern": "a"}} |

  Scenario: an unknown path gets an error in Anthropic's format
    When I get "/v1/messages/batches"
    Then the status is 404
    And the response's "error.type" is "not_found_error"
