Feature: OpenAI Completions API

  Scenario: a non-streaming response has the text and token usage
    When I request a text completion:
      """
      {"model": "any", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
      """
    Then the status is 200
    And the response's "object" is "text_completion"
    And the response's "choices.0.text" contains "Paris"
    And the response's "choices.0.finish_reason" is "length"
    And the response's "choices.0.logprobs" is null
    And the response's "usage.prompt_tokens" is 5
    And the response's "usage.completion_tokens" is 8
    And the response's "usage.total_tokens" is 13

  Scenario: response_format constrains the text
    When I request a text completion:
      """
      {"prompt": "a is ", "max_tokens": 30, "temperature": 0,
       "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": false}}}}
      """
    Then the status is 200
    And the response's "choices.0.finish_reason" is "stop"
    And the response's "choices.0.text" is JSON that validates against:
      """
      {"type": "object", "properties": {"a": {"minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": false}
      """

  Scenario: max_tokens -1 generates until guided_regex is complete
    When I request a text completion:
      """
      {"prompt": "Once upon a time", "max_tokens": -1, "guided_regex": "[a-z ]{40}"}
      """
    Then the status is 200
    And the response's "choices.0.text" matches "[a-z ]{40}"
    And the response's "choices.0.finish_reason" is "stop"

  Scenario: max_tokens defaults to 16
    When I request a text completion:
      """
      {"prompt": "Once upon a time", "regex": "[a-z ]{400}"}
      """
    Then the response's "usage.completion_tokens" is 16

  Scenario: a stream of several prompts reports token usage in the last event
    When I request a text completion:
      """
      {"prompt": ["The capital of France is", "The capital of Italy is"], "max_tokens": 8, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the text of choice 0 contains "Paris"
    And the text of choice 1 contains "Rome"
    And only the last event has "usage"
    And the last event's "choices" is []
    And the last event's "usage.completion_tokens" is 16
    And the stream ends with [DONE]

  Scenario: n sets the number of choices for each prompt
    When I request a text completion:
      """
      {"prompt": [[504, 3575, 282, 4649, 314], "Once upon a time"], "max_tokens": 4, "n": 2, "seed": 3, "regex": "[a-z ]{400}"}
      """
    Then the status is 200
    And the response's "choices" has 4 entries
    And the response's "choices.3.index" is 3
    And the response's "usage.prompt_tokens" is 9
    And the response's "usage.completion_tokens" is 16

  Scenario: echo with max_tokens 0 returns the logprobs of the prompt
    When I request a text completion:
      """
      {"prompt": "The capital of France is Paris", "max_tokens": 0, "echo": true, "logprobs": 1}
      """
    Then the status is 200
    And the response's "choices.0.text" is "The capital of France is Paris"
    And the response's "choices.0.logprobs.tokens" is ["The"," capital"," of"," France"," is"," Paris"]
    And the response's "choices.0.logprobs.text_offset" is [0,3,11,14,21,24]
    And the response's "choices.0.logprobs.token_logprobs" has 6 entries
    And the response's "choices.0.logprobs.token_logprobs.0" is null
    And the response's "choices.0.logprobs.top_logprobs.0" is null
    And the response's "choices.0.finish_reason" is "length"
    And the response's "usage.completion_tokens" is 0

  Scenario: echo returns the same logprobs for a token as its generation
    When I request a text completion:
      """
      {"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0, "logprobs": 2, "echo": true}
      """
    Then echoing the generated text gives the same logprobs

  Scenario: logprobs include the end-of-generation token
    When I request a text completion:
      """
      {"prompt": "The capital", "max_tokens": 4, "temperature": 0, "echo": true, "logprobs": 1, "logit_bias": {"2": 100}}
      """
    Then the response's "choices.0.text" is "The capital"
    And the response's "choices.0.logprobs.tokens" is ["The"," capital","<|im_end|>"]
    And the response's "choices.0.logprobs.text_offset" is [0,3,11]
    And the response's "choices.0.logprobs.top_logprobs" has 3 entries
    And the response's "choices.0.finish_reason" is "stop"
    And the response's "usage.completion_tokens" is 0
    When I request a text completion:
      """
      {"prompt": "The capital", "max_tokens": 4, "temperature": 0, "logprobs": 1, "logit_bias": {"2": 100}, "stream": true}
      """
    Then the last event's "choices.0.logprobs.tokens" is ["<|im_end|>"]
    And the last event's "choices.0.finish_reason" is "stop"

  Scenario: logprobs with echo end at max_tokens even within a character
    When I request a text completion:
      """
      {"prompt": "Birds: ", "max_tokens": 2, "temperature": 0, "echo": true, "logprobs": 0, "logit_bias": {"10813": 100}}
      """
    Then the response's "choices.0.logprobs.token_logprobs" has 5 entries
    And the response's "usage.completion_tokens" is 2

  Scenario: a stream with echo begins with the prompt
    When I request a text completion:
      """
      {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, "echo": true, "stream": true}
      """
    Then the first event's "choices.0.text" is "The capital of France is"

  Scenario: best_of returns the completion with the highest mean logprob
    When I request a text completion:
      """
      {"prompt": "Once upon a time", "max_tokens": 6, "n": 1, "best_of": 4, "seed": 3, "temperature": 2, "regex": "[a-z ]{400}"}
      """
    Then the status is 200
    And the response's "choices" has 1 entries
    And the response's "choices.0.logprobs" is null
    And the response's "usage.completion_tokens" is 24
    And it is the most probable of 4 completions with consecutive seeds from 3 on

  Scenario: suffix generates the text between prompt and suffix
    Given a server whose model supports infill
    When I request a text completion:
      """
      {"prompt": "def ", "suffix": "(a, b):", "max_tokens": 4, "temperature": 0}
      """
    Then the status is 200
    And the response's "usage.completion_tokens" is 4

  Scenario: suffix gets 501 if the model has no infill tokens
    When I request a text completion:
      """
      {"prompt": "def ", "suffix": "(a, b):"}
      """
    Then the status is 501

  Scenario Outline: an invalid or unsupported field is rejected: <field>
    When I post to "/v1/completions" as "application/json":
      """
      {"prompt": "a", <field>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the response's "error.code" is null

    Examples:
      | param      | field                                  |
      | n_predict  | "n_predict": 5                         |
      | best_of    | "n": 2, "best_of": 1                   |
      | best_of    | "best_of": 2, "stream": true           |
      | logprobs   | "logprobs": 21                         |
      | suffix     | "suffix": "b", "echo": true            |
      | suffix     | "suffix": "b", "prompt": [1]           |
      | max_tokens | "max_tokens": -3                       |
      | use_beam_search | "use_beam_search": true           |
      | prompt_logprobs | "prompt_logprobs": 1              |
      | add_special_tokens | "add_special_tokens": false    |
      | prompt     | "n": 128                               |
      | logit_bias.x | "logit_bias": {"x": 101}             |
      | structured_outputs.structural_tag | "structured_outputs": {"structural_tag": "{}"} |
      | regex      | "response_format": {"type": "json_object"}, "regex": "a" |
