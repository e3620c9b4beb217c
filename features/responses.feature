Feature: OpenAI Responses API

  Scenario: a non-streaming response has the output and token usage
    When I create a response:
      """
      {"model": "any", "input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0,
       "metadata": {"topic": "towns"}, "reasoning": {"effort": null}}
      """
    Then the status is 200
    And the response's "id" matches "resp_[0-9a-f]{32}"
    And the response's "object" is "response"
    And the response's "status" is "completed"
    And the response's "model" is "smollm2"
    And the response's "error" is null
    And the response's "incomplete_details" is null
    And the response's "previous_response_id" is null
    And the response's "metadata.topic" is "towns"
    And the response's "temperature" is 0
    And the response's "store" is true
    And the response's "tools" is []
    And the response's "tool_choice" is "auto"
    And the response's "text.format.type" is "text"
    And the response's "output" has 1 entries
    And the response's "output.0.type" is "message"
    And the response's "output.0.role" is "assistant"
    And the response's "output.0.status" is "completed"
    And the response's "output.0.content.0.type" is "output_text"
    And the response's "output.0.content.0.text" contains "Rome"
    And the response's "output.0.content.0.annotations" is []
    And the response's "usage.input_tokens" is 36
    And the response's "usage.output_tokens_details.reasoning_tokens" is 0

  Scenario: a stream has OpenAI's event sequence
    When I stream a response:
      """
      {"input": [{"role": "user", "content": "Name the capital of Italy."}], "max_output_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And every event's name is its type, and the events are numbered
    And the event types are, with consecutive deltas merged:
      """
      response.created response.in_progress
      response.output_item.added response.content_part.added response.output_text.delta response.output_text.done
      response.content_part.done response.output_item.done
      response.completed
      """
    And the last event's "response.status" is "completed"
    And the last event's "response.usage.input_tokens" is 36
    And the deltas join to the text of the response, which contains "Rome"

  Scenario: instructions, content parts, and max_output_tokens are accepted
    When I create a response:
      """
      {"instructions": "You are terse.", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell a "}, {"type": "input_text", "text": "story."}]}],
       "max_output_tokens": 3, "temperature": 0}
      """
    Then the status is 200
    And the response's "status" is "incomplete"
    And the response's "incomplete_details.reason" is "max_output_tokens"
    And the response's "output.0.status" is "incomplete"
    And the response's "completed_at" is null
    And the response's "instructions" is "You are terse."
    And the response's "usage.output_tokens" is 3

  Scenario: a stream that reaches max_output_tokens ends with response.incomplete
    When I stream a response:
      """
      {"input": "Tell a story.", "max_output_tokens": 3, "temperature": 0}
      """
    Then the last event's "type" is "response.incomplete"
    And the last event's "response.incomplete_details.reason" is "max_output_tokens"

  Scenario: previous_response_id continues a stored conversation
    When I create a response:
      """
      {"instructions": "You are terse.", "input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I continue the stored response:
      """
      {"input": "And of France?", "max_output_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And the response's "output.0.content.0.text" contains "Paris"
    And the response's "instructions" is null
    And the response refers to the previous one
    When I list the stored response's input items
    Then the response's "data" has 3 entries
    And the response's "data.0.content.0.text" is "And of France?"
    And the response's "data.1.content.0.type" is "output_text"
    And the response's "data.2.content.0.text" is "Name the capital of Italy."
    And the response's "has_more" is false
    When I list the first 2 of the stored response's input items in ascending order
    Then the response's "data" has 2 entries
    And the response's "data.0.content.0.text" is "Name the capital of Italy."
    And the response's "has_more" is true
    When I list the next input items in ascending order
    Then the response's "data" has 1 entries
    And the response's "data.0.content.0.text" is "And of France?"

  Scenario: a stored response can be retrieved and deleted
    When I create a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I retrieve the stored response
    Then it equals the response as it was created
    When I delete the stored response
    Then the response's "deleted" is true
    When I retrieve the stored response
    Then the status is 404
    And the error message contains "not found"
    And the response's "error.type" is "invalid_request_error"
    When I delete the stored response
    Then the status is 404

  Scenario: a conversation can continue after an earlier response is deleted
    When I create a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I continue the stored response and then delete it:
      """
      {"input": "And of France?", "max_output_tokens": 24, "temperature": 0}
      """
    And I continue the stored response:
      """
      {"input": "And of Spain?", "max_output_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    When I list the stored response's input items
    Then the response's "data" has 5 entries

  Scenario: store false does not store the response
    When I create a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 4, "store": false}
      """
    Then the response's "store" is false
    When I retrieve the stored response
    Then the status is 404

  Scenario: a response is not stored if the client disconnects from its stream
    When I disconnect from a response stream
    Then all slots become idle
    When I retrieve the stored response
    Then the status is 404

  Scenario: a streamed response is stored when it completes
    When I stream a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I retrieve the stored response
    Then the status is 200
    And the response's "output.0.content.0.text" contains "Rome"

  Scenario: a stored response is accessible only with the API key that created it
    Given a server with the API keys "first" and "second"
    When I create a response with the API key "first"
    Then the status is 200
    When I retrieve the stored response with the API key "second"
    Then the status is 404
    When I continue the stored response with the API key "second"
    Then the status is 400
    When I retrieve the stored response with the API key "first"
    Then the status is 200

  Scenario: a function call is returned, and its output is accepted as input
    When I create a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}},
                 {"type": "function", "name": "now"}],
       "tool_choice": {"type": "function", "name": "get_weather"}, "parallel_tool_calls": false}
      """
    Then the status is 200
    And the response's "status" is "completed"
    And the response's "output" has 1 entries
    And the response's "output.0.type" is "function_call"
    And the response's "output.0.id" matches "fc_[0-9a-f]{32}"
    And the response's "output.0.call_id" matches "[a-zA-Z0-9]{9}"
    And the response's "output.0.name" is "get_weather"
    And the response's "output.0.arguments" is JSON that validates against:
      """
      {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"], "additionalProperties": false}
      """
    And the response's "tools.1.parameters.type" is "object"
    And the response's "tools.1.strict" is false
    When I continue the stored response:
      """
      {"input": "And in Bari?"}
      """
    Then the status is 400
    And the error's param is "input"
    And the error message contains "No tool output found for function call"
    When I send the output of its function call: "rain"
    Then the status is 200
    And the response's "output.0.type" is "message"

  Scenario: a function call is streamed
    When I stream a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen"]}}, "required": ["city"]}}],
       "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the status is 200
    And every event's name is its type, and the events are numbered
    And the event types are, with consecutive deltas merged:
      """
      response.created response.in_progress
      response.output_item.added response.function_call_arguments.delta response.function_call_arguments.done
      response.output_item.done
      response.completed
      """
    And the last event's "response.output.0.arguments" is "{\"city\": \"Bergen\"}"
    And the deltas join to the arguments of the function call

  Scenario: tool_choice allowed_tools restricts tool calls to the listed tools
    When I create a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60,
       "tools": [{"type": "function", "name": "get_weather"}, {"type": "function", "name": "now"}],
       "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]},
       "parallel_tool_calls": false}
      """
    Then the response's "output.0.name" is "now"

  Scenario: unsupported tools and items are listed in x-ortolan-ignored, and namespaced tools are callable
    When I post to "/v1/responses" as "application/json":
      """
      {"input": [{"type": "additional_tools", "role": "developer", "tools": []},
                 {"role": "user", "content": "What time is it?"},
                 {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "a", "status": "strange"},
                 {"type": "custom_tool_call_output", "call_id": "c1", "output": {"a": 1}},
                 {"type": "local_shell_call", "call_id": "c2", "action": {}},
                 {"type": "function_call_output", "call_id": "c2", "output": "b"},
                 {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                 {"type": "compaction", "encrypted_content": "x"},
                 {"type": "function_call", "call_id": "c3", "namespace": "clock", "name": "now", "arguments": "{}"},
                 {"type": "function_call_output", "call_id": "c3", "output": "twelve"},
                 {"role": "user", "content": "And now?"}],
       "max_output_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "name": "shell"},
                 {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
                 {"type": "web_search", "external_web_access": false},
                 {"type": "namespace", "name": "clock", "description": "Clocks.",
                  "tools": [{"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}, {"type": "custom", "name": "b"}]}],
       "tool_choice": {"type": "function", "namespace": "clock", "name": "now"}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "input.6.encrypted_content,input.0,input.2,input.3,input.4,input.5,input.7,tools.1,tools.2,tools.3.tools.1"
    And the response's "output.0.type" is "function_call"
    And the response's "output.0.name" is "now"
    And the response's "output.0.namespace" is "clock"
    And the response's "tools" has 2 entries
    And the response's "tools.1.tools" has 1 entries

  Scenario: text.format json_schema constrains the text
    When I create a response:
      """
      {"input": "Name a bird.", "max_output_tokens": 60, "temperature": 0,
       "text": {"format": {"type": "json_schema", "name": "bird", "strict": true,
         "schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"], "additionalProperties": false}}}}
      """
    Then the status is 200
    And the response's "output.0.content.0.text" is JSON that validates against:
      """
      {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"], "additionalProperties": false}
      """
    And the response's "text.format.name" is "bird"

  Scenario: include message.output_text.logprobs returns logprobs
    When I create a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
      """
    Then the status is 200
    And the tokens of the response's logprobs join to its text, with 2 top_logprobs each

  Scenario: include message.output_text.logprobs streams logprobs with the deltas
    When I stream a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0, "include": ["message.output_text.logprobs"]}
      """
    Then the logprobs of the deltas equal those of the response

  Scenario: output items of a response are accepted as input items
    When I create a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60, "temperature": 0, "store": false,
       "tools": [{"type": "function", "name": "now"}], "tool_choice": "required", "parallel_tool_calls": false}
      """
    And I send its output items back with the output of its function call
    Then the status is 200
    And the header "x-ortolan-ignored" is missing
    When I send its output items back with all optional fields set to null
    Then the status is 200
    And the header "x-ortolan-ignored" is missing

  Scenario: item_reference adds a stored item to the input
    When I create a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I reference its output item and ask "And of France?"
    Then the status is 200
    And the response's "output.0.content.0.text" contains "Paris"
    When I post to "/v1/responses" as "application/json":
      """
      {"input": [{"type": "item_reference", "id": "msg_unknown"}]}
      """
    Then the status is 404
    And the error's param is "input"

  Scenario: /v1/responses/input_tokens counts the input tokens
    When I count the input tokens of a response:
      """
      {"model": "any", "instructions": "You are terse.", "input": "Name the capital of Italy."}
      """
    Then the status is 200
    And the response's "object" is "response.input_tokens"
    And the response's "input_tokens" is 25

  Scenario: input longer than the context is rejected unless truncation is auto
    Given a server with contexts of 64 tokens
    When I post to "/v1/responses" as "application/json":
      """
      {"input": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "assistant", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "user", "content": "Hi"}], "max_output_tokens": 4}
      """
    Then the status is 400
    And the response's "error.code" is "context_length_exceeded"
    When I create a response:
      """
      {"input": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "assistant", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "user", "content": "Hi"}], "max_output_tokens": 4, "truncation": "auto"}
      """
    Then the status is 200
    And the response's "truncation" is "auto"
    And the response's "usage.input_tokens" is 18

  Scenario: request fields without effect are listed in x-ortolan-ignored
    When I post to "/v1/responses" as "application/json":
      """
      {"input": "Hi", "max_output_tokens": 1, "user": "ada", "prompt_cache_key": "a", "text": {"verbosity": "low"}, "nonsense": {"a": 1}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "user,prompt_cache_key,text.verbosity,nonsense"
    And the response's "user" is "ada"
    And the response's "prompt_cache_key" is "a"
    And the response's "text.verbosity" is "low"

  Scenario: cancelling or replaying a stored response is not supported
    When I create a response:
      """
      {"input": "Hi", "max_output_tokens": 1}
      """
    And I cancel the stored response
    Then the status is 400
    And the error message contains "Cannot cancel a synchronous response."
    When I retrieve the stored response as a stream
    Then the status is 400
    And the error's param is "stream"

  Scenario Outline: the error names the invalid or unsupported field: <param>: <problem>
    When I post to "/v1/responses" as "application/json":
      """
      {<body>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<problem>"

    Examples:
      | param                    | problem                                     | body |
      | input                    | must be provided                            | "model": "any" |
      | input                    | must be provided                            | "input": [] |
      | input.0.type             | it is required                              | "input": [{}] |
      | input                    | must be provided                            | "input": [{"type": "web_search_call"}] |
      | input.0.role             | it is required                              | "input": [{"type": "message", "content": "a"}] |
      | input.0.content          | it is required                              | "input": [{"role": "user"}] |
      | input.0.content.0.type   | input_image                                 | "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}] |
      | input.0.content.0.type   | a 'user' message cannot contain refusal     | "input": [{"role": "user", "content": [{"type": "refusal", "refusal": "a"}]}] |
      | input.0.content.0.text   | it is required                              | "input": [{"role": "user", "content": [{"type": "input_text"}]}] |
      | input.0.arguments        | it is required                              | "input": [{"type": "function_call", "call_id": "a", "name": "b"}] |
      | input                    | No tool call found                          | "input": [{"type": "function_call_output", "call_id": "a", "output": "b"}] |
      | previous_response_id     | Previous response with id 'resp_a' not found. | "input": "a", "previous_response_id": "resp_a" |
      | conversation             | conversation objects are not supported      | "input": "a", "conversation": "conv_a" |
      | background               | background responses are not supported      | "input": "a", "background": true |
      | prompt                   | prompt templates are not supported          | "input": "a", "prompt": {"id": "pmpt_a"} |
      | moderation               | moderation is not supported                 | "input": "a", "moderation": {"model": "omni"} |
      | tools.0.name             | does not match                              | "input": "a", "tools": [{"type": "namespace", "name": "a b", "tools": []}] |
      | tools.1.tools.0.name     | duplicate function name 'a__b'              | "input": "a", "tools": [{"type": "function", "name": "a__b"}, {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b"}]}] |
      | tool_choice              | the request has no callable tools           | "input": "a", "tools": [{"type": "web_search"}], "tool_choice": "required" |
      | tool_choice.type         | is not supported: only functions can be called | "input": "a", "tools": [{"type": "custom", "name": "b"}], "tool_choice": {"type": "custom", "name": "b"} |
      | tool_choice.tools.0.type | is not supported: only functions can be called | "input": "a", "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp", "server_label": "b"}]} |
      | max_tokens               | use max_output_tokens on this route         | "input": "a", "max_tokens": 5 |
      | n                        | several outputs per response                | "input": "a", "n": 2 |
      | regex                    | text.format.schema and regex cannot both be set | "input": "a", "regex": "a", "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}} |
      | tools.0.name             | it is required                              | "input": "a", "tools": [{"type": "function"}] |
      | tools.1.name             | duplicate function name 'a'                 | "input": "a", "tools": [{"type": "function", "name": "a"}, {"type": "function", "name": "a"}] |
      | tools                    | Invalid schema for function 'a': /not | "input": "a", "tools": [{"type": "function", "name": "a", "strict": true, "parameters": {"not": {"const": 2}}}] |
      | tool_choice              | the request has no callable tools           | "input": "a", "tool_choice": "required" |
      | tool_choice              | tool not found: 'b'                         | "input": "a", "tools": [{"type": "function", "name": "a"}], "tool_choice": {"type": "function", "name": "b"} |
      | tool_choice.name         | it is required                              | "input": "a", "tools": [{"type": "function", "name": "a"}], "tool_choice": {"type": "function"} |
      | tool_choice.type         | file_search                                 | "input": "a", "tool_choice": {"type": "file_search"} |
      | text.format.schema       | it is required                              | "input": "a", "text": {"format": {"type": "json_schema", "name": "a"}} |
      | text.format.schema       | Invalid schema for text.format.schema       | "input": "a", "text": {"format": {"type": "json_schema", "name": "a", "strict": true, "schema": {"not": {"const": 2}}}} |
      | include.0                | thoughts                                    | "input": "a", "include": ["thoughts"] |
      | top_logprobs             | it requires                                 | "input": "a", "top_logprobs": 2 |
      | max_output_tokens        | 0 is less than the minimum of 1             | "input": "a", "max_output_tokens": 0 |
      | truncation               | none                                        | "input": "a", "truncation": "none" |
      | temperature              | 3 is greater than the maximum of 2          | "input": "a", "temperature": 3 |
