Feature: Responses as with OpenAI's newer API

  Scenario: The whole response
    When I ask for a response:
      """
      {"model": "any", "input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0,
       "metadata": {"topic": "towns"}, "reasoning": {"effort": null}}
      """
    Then the status is 200
    And the answer's "id" follows "resp_[0-9a-f]{32}"
    And the answer's "object" is "response"
    And the answer's "status" is "completed"
    And the answer's "model" is "smollm2"
    And the answer's "error" is null
    And the answer's "incomplete_details" is null
    And the answer's "previous_response_id" is null
    And the answer's "metadata.topic" is "towns"
    And the answer's "temperature" is 0
    And the answer's "store" is true
    And the answer's "tools" is []
    And the answer's "tool_choice" is "auto"
    And the answer's "text.format.type" is "text"
    And the answer's "output" has 1 entries
    And the answer's "output.0.type" is "message"
    And the answer's "output.0.role" is "assistant"
    And the answer's "output.0.status" is "completed"
    And the answer's "output.0.content.0.type" is "output_text"
    And the answer's "output.0.content.0.text" contains "Rome"
    And the answer's "output.0.content.0.annotations" is []
    And the answer's "usage.input_tokens" is 36
    And the answer's "usage.output_tokens_details.reasoning_tokens" is 0

  Scenario: As it comes
    When I stream a response:
      """
      {"input": [{"role": "user", "content": "Name the capital of Italy."}], "max_output_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And every event is named as its type, and numbered
    And the events are, with several deltas as one:
      """
      response.created response.in_progress
      response.output_item.added response.content_part.added response.output_text.delta response.output_text.done
      response.content_part.done response.output_item.done
      response.completed
      """
    And the last piece's "response.status" is "completed"
    And the last piece's "response.usage.input_tokens" is 36
    And the deltas are the text of the response, which contains "Rome"

  Scenario: Instructions, parts, and a limit
    When I ask for a response:
      """
      {"instructions": "You are terse.", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell a "}, {"type": "input_text", "text": "story."}]}],
       "max_output_tokens": 3, "temperature": 0}
      """
    Then the status is 200
    And the answer's "status" is "incomplete"
    And the answer's "incomplete_details.reason" is "max_output_tokens"
    And the answer's "output.0.status" is "incomplete"
    And the answer's "completed_at" is null
    And the answer's "instructions" is "You are terse."
    And the answer's "usage.output_tokens" is 3

  Scenario: A stream that reaches its limit
    When I stream a response:
      """
      {"input": "Tell a story.", "max_output_tokens": 3, "temperature": 0}
      """
    Then the last piece's "type" is "response.incomplete"
    And the last piece's "response.incomplete_details.reason" is "max_output_tokens"

  Scenario: A conversation that the server keeps
    When I ask for a response:
      """
      {"instructions": "You are terse.", "input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I go on with the response:
      """
      {"input": "And of France?", "max_output_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And the answer's "output.0.content.0.text" contains "Paris"
    And the answer's "instructions" is null
    And the answer goes on with the response before
    When I get the response's input items
    Then the answer's "data" has 3 entries
    And the answer's "data.0.content.0.text" is "And of France?"
    And the answer's "data.1.content.0.type" is "output_text"
    And the answer's "data.2.content.0.text" is "Name the capital of Italy."
    And the answer's "has_more" is false
    When I get the first 2 of the response's input items in their order
    Then the answer's "data" has 2 entries
    And the answer's "data.0.content.0.text" is "Name the capital of Italy."
    And the answer's "has_more" is true
    When I get those behind, in their order
    Then the answer's "data" has 1 entries
    And the answer's "data.0.content.0.text" is "And of France?"

  Scenario: What is kept can be had again, and forgotten; what went on with it stays whole
    When I ask for a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I get the response
    Then it is what it was
    When I delete the response
    Then the answer's "deleted" is true
    When I get the response
    Then the status is 404
    And the error says "not found"
    And the answer's "error.type" is "invalid_request_error"
    When I delete the response
    Then the status is 404

  Scenario: A response stays whole when the one before is forgotten
    When I ask for a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I go on with the response and delete it:
      """
      {"input": "And of France?", "max_output_tokens": 24, "temperature": 0}
      """
    And I go on with the response:
      """
      {"input": "And of Spain?", "max_output_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    When I get the response's input items
    Then the answer's "data" has 5 entries

  Scenario: What is not to be kept
    When I ask for a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 4, "store": false}
      """
    Then the answer's "store" is false
    When I get the response
    Then the status is 404

  Scenario: A stream that is left is not kept
    When I leave a stream of a response
    Then all slots become idle
    When I get the response
    Then the status is 404

  Scenario: A stream is kept when it ends
    When I stream a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I get the response
    Then the status is 200
    And the answer's "output.0.content.0.text" contains "Rome"

  Scenario: Nobody sees the responses of another key
    Given a server with the keys "first" and "second"
    When I ask for a response with the key "first"
    Then the status is 200
    When I get the response with the key "second"
    Then the status is 404
    When I go on with the response with the key "second"
    Then the status is 400
    When I get the response with the key "first"
    Then the status is 200

  Scenario: A call, and what came of it
    When I ask for a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"]}},
                 {"type": "function", "name": "now"}],
       "tool_choice": {"type": "function", "name": "get_weather"}, "parallel_tool_calls": false}
      """
    Then the status is 200
    And the answer's "status" is "completed"
    And the answer's "output" has 1 entries
    And the answer's "output.0.type" is "function_call"
    And the answer's "output.0.id" follows "fc_[0-9a-f]{32}"
    And the answer's "output.0.call_id" follows "[a-zA-Z0-9]{9}"
    And the answer's "output.0.name" is "get_weather"
    And the answer's "output.0.arguments" is JSON that is valid for:
      """
      {"type": "object", "properties": {"city": {"enum": ["Bergen", "Bari"]}}, "required": ["city"], "additionalProperties": false}
      """
    And the answer's "tools.1.parameters.type" is "object"
    And the answer's "tools.1.strict" is false
    When I go on with the response:
      """
      {"input": "And in Bari?"}
      """
    Then the status is 400
    And the error's param is "input"
    And the error says "No tool output found for function call"
    When I tell the response what came of its call: "rain"
    Then the status is 200
    And the answer's "output.0.type" is "message"

  Scenario: A call as it comes
    When I stream a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60, "temperature": 0,
       "tools": [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Bergen"]}}, "required": ["city"]}}],
       "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the status is 200
    And every event is named as its type, and numbered
    And the events are, with several deltas as one:
      """
      response.created response.in_progress
      response.output_item.added response.function_call_arguments.delta response.function_call_arguments.done
      response.output_item.done
      response.completed
      """
    And the last piece's "response.output.0.arguments" is "{\"city\": \"Bergen\"}"
    And the deltas are the arguments of the call

  Scenario: One of some
    When I ask for a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60,
       "tools": [{"type": "function", "name": "get_weather"}, {"type": "function", "name": "now"}],
       "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]},
       "parallel_tool_calls": false}
      """
    Then the answer's "output.0.name" is "now"

  Scenario: Tools and items of other types are left out and reported, namespaces are called
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
    And the answer's "output.0.type" is "function_call"
    And the answer's "output.0.name" is "now"
    And the answer's "output.0.namespace" is "clock"
    And the answer's "tools" has 2 entries
    And the answer's "tools.1.tools" has 1 entries

  Scenario: A form is held
    When I ask for a response:
      """
      {"input": "Name a bird.", "max_output_tokens": 60, "temperature": 0,
       "text": {"format": {"type": "json_schema", "name": "bird", "strict": true,
         "schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"], "additionalProperties": false}}}}
      """
    Then the status is 200
    And the answer's "output.0.content.0.text" is JSON that is valid for:
      """
      {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"], "additionalProperties": false}
      """
    And the answer's "text.format.name" is "bird"

  Scenario: Log-probabilities
    When I ask for a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
      """
    Then the status is 200
    And the response's log-probabilities spell its text, with 2 alternatives each

  Scenario: Log-probabilities as they come
    When I stream a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0, "include": ["message.output_text.logprobs"]}
      """
    Then the log-probabilities of the deltas are those of the response

  Scenario: The output is taken as input, as it is
    When I ask for a response:
      """
      {"input": "What is the weather in Bergen?", "max_output_tokens": 60, "temperature": 0, "store": false,
       "tools": [{"type": "function", "name": "now"}], "tool_choice": "required", "parallel_tool_calls": false}
      """
    And I send its output back, with what came of its call
    Then the status is 200
    And the header "x-ortolan-ignored" is missing
    When I send its output back, with every field that is null
    Then the status is 200
    And the header "x-ortolan-ignored" is missing

  Scenario: Items are named that are kept
    When I ask for a response:
      """
      {"input": "Name the capital of Italy.", "max_output_tokens": 24, "temperature": 0}
      """
    And I refer to its output and ask "And of France?"
    Then the status is 200
    And the answer's "output.0.content.0.text" contains "Paris"
    When I post to "/v1/responses" as "application/json":
      """
      {"input": [{"type": "item_reference", "id": "msg_unknown"}]}
      """
    Then the status is 404
    And the error's param is "input"

  Scenario: How many tokens it would be given
    When I count the tokens of a response:
      """
      {"model": "any", "instructions": "You are terse.", "input": "Name the capital of Italy."}
      """
    Then the status is 200
    And the answer's "object" is "response.input_tokens"
    And the answer's "input_tokens" is 25

  Scenario: What does not fit is refused, or its beginning is left out
    Given a server with contexts of 64 tokens
    When I post to "/v1/responses" as "application/json":
      """
      {"input": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "assistant", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "user", "content": "Hi"}], "max_output_tokens": 4}
      """
    Then the status is 400
    And the answer's "error.code" is "context_length_exceeded"
    When I ask for a response:
      """
      {"input": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "assistant", "content": "word word word word word word word word word word word word word word word word word word word word"},
                 {"role": "user", "content": "Hi"}], "max_output_tokens": 4, "truncation": "auto"}
      """
    Then the status is 200
    And the answer's "truncation" is "auto"
    And the answer's "usage.input_tokens" is 18

  Scenario: What has no effect is reported
    When I post to "/v1/responses" as "application/json":
      """
      {"input": "Hi", "max_output_tokens": 1, "user": "ada", "prompt_cache_key": "a", "text": {"verbosity": "low"}, "nonsense": {"a": 1}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "user,prompt_cache_key,text.verbosity,nonsense"
    And the answer's "user" is "ada"
    And the answer's "prompt_cache_key" is "a"
    And the answer's "text.verbosity" is "low"

  Scenario: Nothing runs in the background that could be cancelled
    When I ask for a response:
      """
      {"input": "Hi", "max_output_tokens": 1}
      """
    And I cancel the response
    Then the status is 400
    And the error says "Cannot cancel a synchronous response."
    When I ask for the response's events again
    Then the status is 400
    And the error's param is "stream"

  Scenario Outline: What cannot be is refused by its place: <param>
    When I post to "/v1/responses" as "application/json":
      """
      {<body>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<problem>"

    Examples:
      | param                    | problem                                     | body |
      | input                    | must be provided                            | "model": "any" |
      | input                    | must be provided                            | "input": [] |
      | input.0.type             | it is required                              | "input": [{}] |
      | input                    | must be provided                            | "input": [{"type": "web_search_call"}] |
      | input.0.role             | it is required                              | "input": [{"type": "message", "content": "a"}] |
      | input.0.content          | it is required                              | "input": [{"role": "user"}] |
      | input.0.content.0.type   | input_image                                 | "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}] |
      | input.0.content.0.type   | a message of the role 'user' has no refusal | "input": [{"role": "user", "content": [{"type": "refusal", "refusal": "a"}]}] |
      | input.0.content.0.text   | it is required                              | "input": [{"role": "user", "content": [{"type": "input_text"}]}] |
      | input.0.arguments        | it is required                              | "input": [{"type": "function_call", "call_id": "a", "name": "b"}] |
      | input                    | No tool call found                          | "input": [{"type": "function_call_output", "call_id": "a", "output": "b"}] |
      | previous_response_id     | Previous response with id 'resp_a' not found. | "input": "a", "previous_response_id": "resp_a" |
      | conversation             | there are no conversations here             | "input": "a", "conversation": "conv_a" |
      | background               | a response is written while                 | "input": "a", "background": true |
      | prompt                   | there are no prompt templates here          | "input": "a", "prompt": {"id": "pmpt_a"} |
      | moderation               | nothing is moderated here                   | "input": "a", "moderation": {"model": "omni"} |
      | tools.0.name             | does not match                              | "input": "a", "tools": [{"type": "namespace", "name": "a b", "tools": []}] |
      | tools.1.tools.0.name     | another function is called 'a__b', too      | "input": "a", "tools": [{"type": "function", "name": "a__b"}, {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b"}]}] |
      | tool_choice              | there are no tools to choose from           | "input": "a", "tools": [{"type": "web_search"}], "tool_choice": "required" |
      | tool_choice.type         | is not supported: only functions can be called | "input": "a", "tools": [{"type": "custom", "name": "b"}], "tool_choice": {"type": "custom", "name": "b"} |
      | tool_choice.tools.0.type | is not supported: only functions can be called | "input": "a", "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp", "server_label": "b"}]} |
      | max_tokens               | use max_output_tokens on this route         | "input": "a", "max_tokens": 5 |
      | n                        | a response is one answer                    | "input": "a", "n": 2 |
      | regex                    | cannot follow both text.format.schema and regex | "input": "a", "regex": "a", "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}} |
      | tools.0.name             | it is required                              | "input": "a", "tools": [{"type": "function"}] |
      | tools.1.name             | another function is called 'a', too         | "input": "a", "tools": [{"type": "function", "name": "a"}, {"type": "function", "name": "a"}] |
      | tools                    | Invalid schema for function 'a': /not | "input": "a", "tools": [{"type": "function", "name": "a", "strict": true, "parameters": {"not": {"const": 2}}}] |
      | tool_choice              | there are no tools to choose from           | "input": "a", "tool_choice": "required" |
      | tool_choice              | there is no function 'b' among the tools    | "input": "a", "tools": [{"type": "function", "name": "a"}], "tool_choice": {"type": "function", "name": "b"} |
      | tool_choice.name         | it is required                              | "input": "a", "tools": [{"type": "function", "name": "a"}], "tool_choice": {"type": "function"} |
      | tool_choice.type         | file_search                                 | "input": "a", "tool_choice": {"type": "file_search"} |
      | text.format.schema       | it is required                              | "input": "a", "text": {"format": {"type": "json_schema", "name": "a"}} |
      | text.format.schema       | Invalid schema for text.format.schema       | "input": "a", "text": {"format": {"type": "json_schema", "name": "a", "strict": true, "schema": {"not": {"const": 2}}}} |
      | include.0                | thoughts                                    | "input": "a", "include": ["thoughts"] |
      | top_logprobs             | it needs                                    | "input": "a", "top_logprobs": 2 |
      | max_output_tokens        | 0 is less than the minimum of 1             | "input": "a", "max_output_tokens": 0 |
      | truncation               | none                                        | "input": "a", "truncation": "none" |
      | temperature              | 3 is greater than the maximum of 2          | "input": "a", "temperature": 3 |
