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

  Scenario Outline: A text that follows a schema: <field>
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "Where is Bergen?"}], <field>}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is missing
    And the answer's "stop_reason" is "end_turn"
    And the answer's "content" has 1 entries
    And the answer's "content.0.text" is JSON that is valid for:
      """
      {"type": "object", "properties": {"country": {"enum": ["Norway", "Italy"]}}, "required": ["country"], "additionalProperties": false}
      """

    Examples:
      | field |
      | "output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {"country": {"enum": ["Norway", "Italy"]}}, "required": ["country"], "additionalProperties": false}}} |
      | "output_format": {"type": "json_schema", "schema": {"type": "object", "properties": {"country": {"enum": ["Norway", "Italy"]}}, "required": ["country"], "additionalProperties": false}} |

  Scenario: A text that follows a schema as it comes
    When I stream a message:
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "Where is Bergen?"}],
       "output_config": {"format": {"type": "json_schema", "schema": {"const": {"country": "Norway"}}}}}
      """
    Then the status is 200
    And the blocks of the stream are one text that contains "Norway"

  Scenario: A text that follows a schema beside a tool that may be used
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "tools": [{"name": "now", "input_schema": {"type": "object"}}],
       "messages": [{"role": "user", "content": "Say: yes"}, {"role": "assistant", "content": "\"yes\""}, {"role": "user", "content": "Say: no"},
                    {"role": "assistant", "content": "\"no\""}, {"role": "user", "content": "Say: yes"}],
       "output_config": {"format": {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}}}
      """
    Then the status is 200
    And the answer's "stop_reason" is "end_turn"
    And the answer's "content.0.text" is "\"yes\""

  Scenario: A schema beside a tool that must be used
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": "What time is it?"}],
       "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
       "tools": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}],
       "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the answer's "stop_reason" is "tool_use"
    And the answer's "content.0.name" is "now"

  Scenario: A conversation that is to be kept is refused in a way that libraries understand
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}], "thread": {"type": "create"}}
      """
    Then the status is 400
    And the answer's "error.type" is "invalid_request_error"
    And the answer's "error.details" is {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    And the error says "thread: this server keeps no conversations"
    And the answer's "request_id" follows "[0-9a-f]{32}"
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}], "thread": null}
      """
    Then the status is 200

  Scenario: A system message among the others
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "go on"}]}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is missing

  Scenario: An answer continues the assistant's last message
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "stop_sequences": ["."],
       "messages": [{"role": "user", "content": "Name the capital of Italy."}, {"role": "assistant", "content": "The capital of Italy is"}]}
      """
    Then the status is 200
    And the answer's "content.0.text" is " Rome"

  Scenario: Tools of another server are left out while the choice is free
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
    And the answer's "content.0.name" is "mcp__plugin_chrome-devtools-mcp_chrome-devtools__get_console_message"

  Scenario: Blocks of other servers are left out of the history
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

  Scenario Outline: What turns a limit off: <fields>
    When I post to "/v1/messages" as "application/json":
      """
      {<fields>, "temperature": 0, "stop_sequences": [" "], "messages": [{"role": "user", "content": "Count: 1, 2, 3"}]}
      """
    Then the status is 200
    And the answer's "stop_reason" is "<reason>"
    And the header "x-ortolan-ignored" is missing

    Examples:
      | fields                          | reason        |
      | "max_tokens": 0                 | max_tokens    |
      | "max_tokens": -1                | stop_sequence |
      | "max_tokens": 60, "top_k": -1   | stop_sequence |

  Scenario: Fields without effect are named
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "metadata": {"user_id": "a"}, "service_tier": "auto", "speed": "fast",
       "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "container": "c", "inference_geo": "eu",
       "cache_control": {"type": "ephemeral"}, "betas": ["a"], "output_config": {"effort": "high"}, "thinking": {"type": "adaptive"},
       "tools": [{"name": "a", "input_schema": {}, "defer_loading": true, "eager_input_streaming": true}], "new": 1}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "metadata,service_tier,speed,context_management,container,inference_geo,cache_control,betas,tools.0.defer_loading,new,output_config.effort"

  Scenario: Fields without effect break no request, whatever they hold
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": "x", "citations": 1}]}],
       "metadata": "x", "service_tier": 1, "context_management": [1], "fallbacks": ["x"], "mcp_servers": {}, "container": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "messages.0.content.0.cache_control,messages.0.content.0.citations,metadata,service_tier,context_management,fallbacks,mcp_servers,container"

  Scenario: Tokens are counted of the same bodies
    When I post to "/v1/messages/count_tokens" as "application/json":
      """
      {"model": "any", "system": [], "messages": [{"role": "user", "content": "Name the capital of Italy."}],
       "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}}
      """
    Then the status is 200
    And the answer's "input_tokens" is 36
    And the header "x-ortolan-ignored" is "tools.0"

  Scenario Outline: What shapes the answer and is not built is refused by its kind: <problem>
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 1, "messages": [{"role": "user", "content": <content>}]<more>}
      """
    Then the status is 400
    And the error says "<problem>"

    Examples:
      | problem                                               | content | more |
      | messages.0.content.0.type: images are not supported   | [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}] | |
      | messages.0.content.0.source.type: base64 documents    | [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}] | |
      | (tools.0) is a web_search_20250305, which this server | "a" | , "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "tool", "name": "web_search"} |
      | tool_choice: tools.0 is a bash_20250124               | "a" | , "tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"} |
      | compaction: the server does not summarize             | "a" | , "compaction": {"type": "summarize"} |
      | output_config.format.schema: it is required           | "a" | , "output_config": {"format": {"type": "json_schema"}} |
      | output_config.format.schema                           | "a" | , "output_config": {"format": {"type": "json_schema", "schema": {"type": 5}}} |
      | output_format: a text cannot follow both              | "a" | , "output_format": {"type": "json_schema", "schema": {}}, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}} |
      | output_config.format.type                             | "a" | , "output_config": {"format": {"type": "regex", "pattern": "a"}} |

  Scenario: Paths that are not there have Anthropic's words, too
    When I get "/v1/messages/batches"
    Then the status is 404
    And the answer's "error.type" is "not_found_error"
