Feature: Thoughts before an answer
  A model whose chat template knows of thoughts thinks before it answers. What it thinks is told apart, counted, and
  ended when it is enough; what a text must follow holds behind the thought.

  Background:
    Given a server whose model thinks

  Scenario: A thought that ends when it is enough
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0,
       "thinking_budget_tokens": 8, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the status is 200
    And the answer's "choices.0.message.reasoning_content" is "aaaaaaaa"
    And the answer's "choices.0.message.content" is "yes"
    And the answer's "choices.0.finish_reason" is "stop"
    And the answer's "usage.completion_tokens_details.reasoning_tokens" is 17
    And the answer's tokens add up

  Scenario: The same as it comes
    When I stream a chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0,
       "reasoning_budget": 8, "logit_bias": {"97": 100}, "regex": "yes", "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the pieces think "aaaaaaaa" and say "yes"
    And the last piece's "usage.completion_tokens_details.reasoning_tokens" is 17
    And the stream ends with [DONE]

  Scenario: A thought without an end is no answer
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12, "temperature": 0, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the answer's "choices.0.message.reasoning_content" is "aaaaaaaaaaaa"
    And the answer's "choices.0.message.content" is ""
    And the answer's "choices.0.finish_reason" is "length"

  Scenario Outline: No thought: <field>
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0, "logit_bias": {"97": 100}, <field>}
      """
    Then the answer's "choices.0.message.content" is "aaaa"
    And the answer has no "choices.0.message.reasoning_content"
    And the answer's "usage.completion_tokens_details.reasoning_tokens" is 0
    And the answer's "usage.prompt_tokens" is 38

    Examples:
      | field                                              |
      | "reasoning_effort": "none"                         |
      | "reasoning_budget": 0                              |
      | "chat_template_kwargs": {"enable_thinking": false} |

  Scenario: Thoughts as a part of the text
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0,
       "thinking_budget_tokens": 3, "reasoning_format": "none", "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the answer's "choices.0.message.content" is "aaa\n</think>\n\nyes"
    And the answer has no "choices.0.message.reasoning_content"

  Scenario: A form, and a call, behind a thought
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 90, "thinking_budget_tokens": 5,
       "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}}}}
      """
    Then the answer's "choices.0.message.content" is one of '"yes"' or '"no"'
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "thinking_budget_tokens": 5, "logit_bias": {"97": 100},
       "tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the answer's "choices.0.message.reasoning_content" is "aaaaa"
    And the answer's "choices.0.message.tool_calls.0.function.name" is "now"
    And the answer's "choices.0.finish_reason" is "tool_calls"

  Scenario: What was thought is told to the template again, and so is what else it knows
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes."}, {"role": "user", "content": "Why?"}],
       "chat_template_kwargs": {"enable_thinking": false}}
      """
    Then the answer's "prompt" is "<s>user\nHi<s>assistant\n<think>\nHm.\n</think>\n\nYes.<s>user\nWhy?<s>assistant\n<think>\n\n</think>\n\n"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes, "}]}
      """
    Then the answer's "prompt" is "<s>user\nHi<s>assistant\n<think>\nHm.\n</think>\n\nYes, "

  Scenario: A thought is an item of a response
    When I ask for a response:
      """
      {"input": "Hi", "max_output_tokens": 60, "temperature": 0, "reasoning": {"effort": "low", "summary": "auto"},
       "thinking_budget_tokens": 8, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the status is 200
    And the answer's "output" has 2 entries
    And the answer's "output.0.type" is "reasoning"
    And the answer's "output.0.id" follows "rs_[0-9a-f]{32}"
    And the answer's "output.0.summary" is []
    And the answer's "output.0.content.0.type" is "reasoning_text"
    And the answer's "output.0.content.0.text" is "aaaaaaaa"
    And the answer's "output.1.content.0.text" is "yes"
    And the answer's "reasoning.effort" is "low"
    And the answer's "usage.output_tokens_details.reasoning_tokens" is 17
    When I go on with the response:
      """
      {"input": "And now?", "max_output_tokens": 4, "reasoning": {"effort": "none"}, "logit_bias": {"97": 100}}
      """
    Then the status is 200
    And the answer's "output.0.content.0.text" is "aaaa"

  Scenario: A thought of a response as it comes
    When I stream a response:
      """
      {"input": "Hi", "max_output_tokens": 60, "temperature": 0, "thinking_budget_tokens": 8, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then every event is named as its type, and numbered
    And the events are, with several deltas as one:
      """
      response.created response.in_progress
      response.output_item.added response.content_part.added response.reasoning_text.delta response.reasoning_text.done
      response.content_part.done response.output_item.done
      response.output_item.added response.content_part.added response.output_text.delta response.output_text.done
      response.content_part.done response.output_item.done
      response.completed
      """

  Scenario: A thought is a block of a message
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 40, "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 6}, "messages": [{"role": "user", "content": "Hi"}]}
      """
    Then the status is 200
    And the answer's "content" has 2 entries
    And the answer's "content.0.type" is "thinking"
    And the answer's "content.0.signature" is ""
    And the answer's "content.1.type" is "text"
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Yes."}]},
        {"role": "user", "content": "Why?"}]}
      """
    Then the status is 200
    And the answer's "content" has 1 entries
    And the answer's "content.0.type" is "text"

  Scenario: A thought of a message as it comes
    When I stream a message:
      """
      {"max_tokens": 120, "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 6}, "messages": [{"role": "user", "content": "Hi"}],
       "tools": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}], "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And every event is named as its type
    And the blocks of the stream are "thinking" and "tool_use"

  Scenario Outline: What cannot be thought is refused: <param>
    When I post to "<path>" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "a"}], <field>}
      """
    Then the status is 400
    And the error says "<problem>"

    Examples:
      | param | path                 | problem                           | field |
      | 1     | /v1/chat/completions | reasoning_effort                  | "reasoning_effort": "lots" |
      | 2     | /v1/chat/completions | reasoning_budget: -2 is less      | "reasoning_budget": -2 |
      | 3     | /v1/chat/completions | reasoning_format                  | "reasoning_format": "xml" |
      | 4     | /v1/messages         | thinking.budget_tokens            | "thinking": {"type": "enabled", "budget_tokens": 4} |
      | 5     | /v1/messages         | thinking.budget_tokens: it is required | "thinking": {"type": "enabled"} |
