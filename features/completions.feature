Feature: OpenAI's older route, where texts go on

  Scenario: A text goes on
    When I go on with:
      """
      {"model": "any", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
      """
    Then the status is 200
    And the answer's "object" is "text_completion"
    And the answer's "choices.0.text" contains "Paris"
    And the answer's "choices.0.finish_reason" is "length"
    And the answer's "choices.0.logprobs" is null
    And the answer's "usage.prompt_tokens" is 5
    And the answer's "usage.completion_tokens" is 8
    And the answer's "usage.total_tokens" is 13

  Scenario: A form that is held
    When I go on with:
      """
      {"prompt": "a is ", "max_tokens": 30, "temperature": 0,
       "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": false}}}}
      """
    Then the status is 200
    And the answer's "choices.0.finish_reason" is "stop"
    And the answer's "choices.0.text" is JSON that is valid for:
      """
      {"type": "object", "properties": {"a": {"minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": false}
      """

  Scenario: No limit but what is followed
    When I go on with:
      """
      {"prompt": "Once upon a time", "max_tokens": -1, "guided_regex": "[a-z ]{40}"}
      """
    Then the status is 200
    And the answer's "choices.0.text" follows "[a-z ]{40}"
    And the answer's "choices.0.finish_reason" is "stop"

  Scenario: Sixteen tokens, if nothing is said
    When I go on with:
      """
      {"prompt": "Once upon a time", "regex": "[a-z ]{400}"}
      """
    Then the answer's "usage.completion_tokens" is 16

  Scenario: As it comes
    When I go on with:
      """
      {"prompt": ["The capital of France is", "The capital of Italy is"], "max_tokens": 8, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the text of choice 0 contains "Paris"
    And the text of choice 1 contains "Rome"
    And no piece but the last has "usage"
    And the last piece's "choices" is []
    And the last piece's "usage.completion_tokens" is 16
    And the stream ends with [DONE]

  Scenario: Token ids, and several texts for each of several prompts
    When I go on with:
      """
      {"prompt": [[504, 3575, 282, 4649, 314], "Once upon a time"], "max_tokens": 4, "n": 2, "seed": 3, "regex": "[a-z ]{400}"}
      """
    Then the status is 200
    And the answer's "choices" has 4 entries
    And the answer's "choices.3.index" is 3
    And the answer's "usage.prompt_tokens" is 9
    And the answer's "usage.completion_tokens" is 16

  Scenario: How probable a text is
    When I go on with:
      """
      {"prompt": "The capital of France is Paris", "max_tokens": 0, "echo": true, "logprobs": 1}
      """
    Then the status is 200
    And the answer's "choices.0.text" is "The capital of France is Paris"
    And the answer's "choices.0.logprobs.tokens" is ["The"," capital"," of"," France"," is"," Paris"]
    And the answer's "choices.0.logprobs.text_offset" is [0,3,11,14,21,24]
    And the answer's "choices.0.logprobs.token_logprobs" has 6 entries
    And the answer's "choices.0.logprobs.token_logprobs.0" is null
    And the answer's "choices.0.logprobs.top_logprobs.0" is null
    And the answer's "choices.0.finish_reason" is "length"
    And the answer's "usage.completion_tokens" is 0

  Scenario: A text is as probable as it is generated
    When I go on with:
      """
      {"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0, "logprobs": 2, "echo": true}
      """
    Then the text that was told is told again with the same log-probabilities

  Scenario: The token that ends a text is told among the probable ones
    When I go on with:
      """
      {"prompt": "The capital", "max_tokens": 4, "temperature": 0, "echo": true, "logprobs": 1, "logit_bias": {"2": 100}}
      """
    Then the answer's "choices.0.text" is "The capital"
    And the answer's "choices.0.logprobs.tokens" is ["The"," capital","<|im_end|>"]
    And the answer's "choices.0.logprobs.text_offset" is [0,3,11]
    And the answer's "choices.0.logprobs.top_logprobs" has 3 entries
    And the answer's "choices.0.finish_reason" is "stop"
    And the answer's "usage.completion_tokens" is 0
    When I go on with:
      """
      {"prompt": "The capital", "max_tokens": 4, "temperature": 0, "logprobs": 1, "logit_bias": {"2": 100}, "stream": true}
      """
    Then the last piece's "choices.0.logprobs.tokens" is ["<|im_end|>"]
    And the last piece's "choices.0.finish_reason" is "stop"

  Scenario: Where tokens are measured, there are as many as were asked for
    When I go on with:
      """
      {"prompt": "Birds: ", "max_tokens": 2, "temperature": 0, "echo": true, "logprobs": 0, "logit_bias": {"10813": 100}}
      """
    Then the answer's "choices.0.logprobs.token_logprobs" has 5 entries
    And the answer's "usage.completion_tokens" is 2

  Scenario: The prompt comes first in a stream, too
    When I go on with:
      """
      {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, "echo": true, "stream": true}
      """
    Then the first piece's "choices.0.text" is "The capital of France is"

  Scenario: The best of some
    When I go on with:
      """
      {"prompt": "Once upon a time", "max_tokens": 6, "n": 1, "best_of": 4, "seed": 3, "temperature": 2, "regex": "[a-z ]{400}"}
      """
    Then the status is 200
    And the answer's "choices" has 1 entries
    And the answer's "choices.0.logprobs" is null
    And the answer's "usage.completion_tokens" is 24
    And it is the most probable of the 4 that the seeds from 3 on choose

  Scenario: A gap is filled
    Given a server whose model fills gaps
    When I go on with:
      """
      {"prompt": "def ", "suffix": "(a, b):", "max_tokens": 4, "temperature": 0}
      """
    Then the status is 200
    And the answer's "usage.completion_tokens" is 4

  Scenario: A model that fills no gaps says so
    When I go on with:
      """
      {"prompt": "def ", "suffix": "(a, b):"}
      """
    Then the status is 501

  Scenario Outline: What cannot be is refused: <param>
    When I post to "/v1/completions" as "application/json":
      """
      {"prompt": "a", <field>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the answer's "error.code" is null

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
