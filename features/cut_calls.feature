Feature: Calls that a limit cuts
  A call that breaks off before its arguments is not text. The answer has neither its markup nor a call, and says that the
  limit was reached.

  Scenario Outline: Chat: a call that is cut after <tokens> tokens
    When I chat:
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": <tokens>, "tool_choice": "required",
       "tools": [{"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}}]}
      """
    Then the status is 200
    And the answer's "choices.0.message.content" is ""
    And the answer has no "choices.0.message.tool_calls"
    And the answer's "choices.0.finish_reason" is "length"
    And the answer's "usage.completion_tokens" is <tokens>

    Examples:
      | tokens |
      | 1      |
      | 3      |
      | 8      |
      | 12     |

  Scenario Outline: Chat: a call that is cut as it comes, after <tokens> tokens
    When I stream a chat:
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": <tokens>, "tool_choice": "required",
       "tools": [{"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}}]}
      """
    Then the status is 200
    And the pieces think "" and say ""
    And the last piece's "choices.0.finish_reason" is "length"
    And the stream ends with [DONE]

    Examples:
      | tokens |
      | 1      |
      | 12     |

  Scenario: Chat: a call that is cut among its arguments
    When I chat:
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": 24, "tool_choice": "required",
       "tools": [{"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string", "minLength": 300}}, "required": ["text"]}}}]}
      """
    Then the answer's "choices.0.message.content" is null
    And the answer's "choices.0.message.tool_calls.0.function.name" is "write_file"
    And the answer's "choices.0.finish_reason" is "length"

  Scenario: Responses: a call that is cut
    When I ask for a response:
      """
      {"input": "w", "temperature": 0, "max_output_tokens": 12, "tool_choice": "required",
       "tools": [{"type": "function", "name": "write_file", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}]}
      """
    Then the status is 200
    And the answer's "status" is "incomplete"
    And the answer's "incomplete_details.reason" is "max_output_tokens"
    And the answer's "output" has 1 entries
    And the answer's "output.0.status" is "incomplete"
    And the answer's "output.0.content.0.text" is ""

  Scenario: Messages: a call that is cut
    When I post to "/v1/messages" as "application/json":
      """
      {"messages": [{"role": "user", "content": "w"}], "temperature": 0, "max_tokens": 12, "tool_choice": {"type": "any"},
       "tools": [{"name": "write_file", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}]}
      """
    Then the status is 200
    And the answer's "content" is [{"text": "", "type": "text"}]
    And the answer's "stop_reason" is "max_tokens"

  Scenario: A tool whose schema says nothing of its type takes an object
    When I chat:
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bergen?"}], "max_tokens": 60, "temperature": 0, "parallel_tool_calls": false,
       "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"properties": {"city": {"enum": ["Bergen"]}}, "required": ["city"]}}}],
       "tool_choice": "required"}
      """
    Then the answer's "choices.0.finish_reason" is "tool_calls"
    And the answer's "choices.0.message.tool_calls.0.function.arguments" is "{\"city\": \"Bergen\"}"
