Feature: Reasoning
  A model whose chat template has reasoning markers reasons before its final text. Reasoning is returned separately,
  counted, and ended at its token budget; constraints apply only to the text after it.

  Background:
    Given a server with a reasoning model

  Scenario: thinking_budget_tokens ends the reasoning of a chat completion
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0,
       "thinking_budget_tokens": 8, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the status is 200
    And the response's "choices.0.message.reasoning_content" is "aaaaaaaa"
    And the response's "choices.0.message.content" is "yes"
    And the response's "choices.0.finish_reason" is "stop"
    And the response's "usage.completion_tokens_details.reasoning_tokens" is 17
    And the token counts in usage add up

  Scenario: reasoning_budget ends the reasoning of a chat completion stream
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0,
       "reasoning_budget": 8, "logit_bias": {"97": 100}, "regex": "yes", "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the streamed reasoning is "aaaaaaaa" and the streamed content is "yes"
    And the last event's "usage.completion_tokens_details.reasoning_tokens" is 17
    And the stream ends with [DONE]

  Scenario: the content is empty if reasoning reaches max_tokens
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12, "temperature": 0, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the response's "choices.0.message.reasoning_content" is "aaaaaaaaaaaa"
    And the response's "choices.0.message.content" is ""
    And the response's "choices.0.finish_reason" is "length"

  Scenario Outline: a request disables reasoning: <field>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0, "logit_bias": {"97": 100}, <field>}
      """
    Then the response's "choices.0.message.content" is "aaaa"
    And the response has no "choices.0.message.reasoning_content"
    And the response's "usage.completion_tokens_details.reasoning_tokens" is 0
    And the response's "usage.prompt_tokens" is 38

    Examples:
      | field                                              |
      | "reasoning_effort": "none"                         |
      | "reasoning_budget": 0                              |
      | "chat_template_kwargs": {"enable_thinking": false} |

  Scenario: reasoning_format none leaves reasoning in the content
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0,
       "thinking_budget_tokens": 3, "reasoning_format": "none", "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the response's "choices.0.message.content" is "aaa\n</think>\n\nyes"
    And the response has no "choices.0.message.reasoning_content"

  Scenario: response_format and tool_choice constrain only the text after the reasoning
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 90, "thinking_budget_tokens": 5,
       "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}}}}
      """
    Then the response's "choices.0.message.content" is one of '"yes"' or '"no"'
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "thinking_budget_tokens": 5, "logit_bias": {"97": 100},
       "tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required", "parallel_tool_calls": false}
      """
    Then the response's "choices.0.message.reasoning_content" is "aaaaa"
    And the response's "choices.0.message.tool_calls.0.function.name" is "now"
    And the response's "choices.0.finish_reason" is "tool_calls"

  Scenario: reasoning_content and chat_template_kwargs are passed to the chat template
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes."}, {"role": "user", "content": "Why?"}],
       "chat_template_kwargs": {"enable_thinking": false}}
      """
    Then the response's "prompt" is "<s>user\nHi<s>assistant\n<think>\nHm.\n</think>\n\nYes.<s>user\nWhy?<s>assistant\n<think>\n\n</think>\n\n"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes, "}]}
      """
    Then the response's "prompt" is "<s>user\nHi<s>assistant\n<think>\nHm.\n</think>\n\nYes, "

  Scenario: /v1/responses returns reasoning as an output item
    When I create a response:
      """
      {"input": "Hi", "max_output_tokens": 60, "temperature": 0, "reasoning": {"effort": "low", "summary": "auto"},
       "thinking_budget_tokens": 8, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then the status is 200
    And the response's "output" has 2 entries
    And the response's "output.0.type" is "reasoning"
    And the response's "output.0.id" matches "rs_[0-9a-f]{32}"
    And the response's "output.0.summary" is []
    And the response's "output.0.content.0.type" is "reasoning_text"
    And the response's "output.0.content.0.text" is "aaaaaaaa"
    And the response's "output.1.content.0.text" is "yes"
    And the response's "reasoning.effort" is "low"
    And the response's "usage.output_tokens_details.reasoning_tokens" is 17
    When I continue the stored response:
      """
      {"input": "And now?", "max_output_tokens": 4, "reasoning": {"effort": "none"}, "logit_bias": {"97": 100}}
      """
    Then the status is 200
    And the response's "output.0.content.0.text" is "aaaa"

  Scenario: /v1/responses streams reasoning
    When I stream a response:
      """
      {"input": "Hi", "max_output_tokens": 60, "temperature": 0, "thinking_budget_tokens": 8, "logit_bias": {"97": 100}, "regex": "yes"}
      """
    Then every event's name is its type, and the events are numbered
    And the event types are, with consecutive deltas merged:
      """
      response.created response.in_progress
      response.output_item.added response.content_part.added response.reasoning_text.delta response.reasoning_text.done
      response.content_part.done response.output_item.done
      response.output_item.added response.content_part.added response.output_text.delta response.output_text.done
      response.content_part.done response.output_item.done
      response.completed
      """

  Scenario: /v1/messages returns reasoning as a thinking block
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 40, "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 6}, "messages": [{"role": "user", "content": "Hi"}]}
      """
    Then the status is 200
    And the response's "content" has 2 entries
    And the response's "content.0.type" is "thinking"
    And the response's "content.0.signature" is ""
    And the response's "content.1.type" is "text"
    When I post to "/v1/messages" as "application/json":
      """
      {"max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Yes."}]},
        {"role": "user", "content": "Why?"}]}
      """
    Then the status is 200
    And the response's "content" has 1 entries
    And the response's "content.0.type" is "text"

  Scenario: /v1/messages streams reasoning as a thinking block
    When I stream a message:
      """
      {"max_tokens": 120, "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 6}, "messages": [{"role": "user", "content": "Hi"}],
       "tools": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}], "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}
      """
    Then the status is 200
    And every event's name is its type
    And the stream's blocks are "thinking" and "tool_use"

  Scenario Outline: counted input tokens include the opening of the reasoning: <option>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}], <option>, "max_tokens": 9}
      """
    Then the status is 200
    And the response's "usage.prompt_tokens" is 27
    When I post to "/v1/chat/completions/input_tokens" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}], <option>}
      """
    Then the status is 200
    And the response's "input_tokens" is 27

    Examples:
      | option                                     |
      | "thinking_budget_tokens": 8                |
      | "response_format": {"type": "json_object"} |

  Scenario: /v1/messages/count_tokens counts the opening of the reasoning
    When I post to "/v1/messages/count_tokens" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}], "thinking": {"type": "enabled", "budget_tokens": 8}}
      """
    Then the status is 200
    And the response's "input_tokens" is 27

  Scenario Outline: /v1/responses/input_tokens counts the opening of the reasoning: <option>
    When I create a response:
      """
      {"input": "Hi", <option>, "max_output_tokens": 1}
      """
    Then the response's "usage.input_tokens" is 27
    When I count the input tokens of a response:
      """
      {"input": "Hi", <option>}
      """
    Then the response's "input_tokens" is 27

    Examples:
      | option                                     |
      | "reasoning": {"effort": "low"}             |
      | "text": {"format": {"type": "json_object"}} |

  Scenario Outline: an invalid reasoning option is rejected: <problem>
    When I post to "<path>" as "application/json":
      """
      {"max_tokens": 4, "messages": [{"role": "user", "content": "a"}], <field>}
      """
    Then the status is 400
    And the error message contains "<problem>"

    Examples:
      | path                 | problem                           | field |
      | /v1/chat/completions | reasoning_effort                  | "reasoning_effort": "lots" |
      | /v1/chat/completions | reasoning_budget: -2 is less      | "reasoning_budget": -2 |
      | /v1/chat/completions | reasoning_format                  | "reasoning_format": "xml" |
      | /v1/messages         | thinking.budget_tokens            | "thinking": {"type": "enabled", "budget_tokens": 4} |
      | /v1/messages         | thinking.budget_tokens: it is required | "thinking": {"type": "enabled"} |
