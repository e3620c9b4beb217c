Feature: Infill (fill-in-the-middle)
  Code editors request the text between the code before the cursor and the code after it.

  Scenario: /infill generates the same text as /completion with the infill prompt
    Given a server whose model supports infill
    When I stream an infill:
      """
      {"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n\nprint(1)", "n_predict": 12, "temperature": 0}
      """
    Then the status is 200
    And every event but the last has only content and stop
    And the last event's "tokens_predicted" is 12
    And the last event's "stop" is true
    And a completion of the last event's prompt gives the same text
    And that prompt has 3 special tokens, including its first and its last token

  Scenario: /infill treats special tokens in code as plain text
    Given a server whose model supports infill
    When I stream an infill:
      """
      {"input_prefix": "<PRE>", "input_suffix": "<MID>", "n_predict": 1}
      """
    Then that prompt has 3 special tokens, including its first and its last token

  Scenario: /infill accepts grammar
    Given a server whose model supports infill
    When I stream an infill:
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3, "grammar": "root ::= \"xyz\""}
      """
    Then the status is 200
    And the streamed text contains "xyz"

  Scenario: /infill streams unless stream is false
    Given a server whose model supports infill
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3, "regex": "[xyz]{9}", "stream": false}
      """
    Then the status is 200
    And the header "content-type" is "application/json; charset=utf-8"
    And the response's "tokens_predicted" is 3
    And the response's "prompt" is [257, 97, 258, 98, 259]
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3}
      """
    Then the header "content-type" is "text/event-stream"

  Scenario: the text of prompt follows the middle token
    Given a server whose model supports infill
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "prompt": "c", "n_predict": 0, "stream": false}
      """
    Then the response's "prompt" is [257, 97, 258, 98, 259, 99]

  Scenario: input_extra comes before the prefix
    Given a server whose model supports infill
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "x.rs", "text": "yz"}], "n_predict": 0, "stream": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "input_extra.0.filename"
    And the response's "prompt" is [10, 10, 45, 45, 45, 32, 115, 110, 105, 112, 112, 101, 116, 32, 45, 45, 45, 10, 10, 121, 122, 257, 97, 258, 98, 259]

  Scenario: input_extra files that do not fit are dropped in order and listed in x-ortolan-ignored
    Given a server whose model supports infill
    When I post an infill with 3 extra files of 100 characters each:
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 8, "ignore_eos": true, "stream": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "input_extra.0"
    And the response's "tokens_evaluated" is 243
    And the response's "truncated" is false

  Scenario: /infill accepts the options of editor plugins
    Given a server whose model supports infill
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 5, "samplers": ["top_k", "top_p", "infill"], "stream": false,
       "n_indent": 4, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000, "cache_prompt": true,
       "response_fields": ["content", "timings/prompt_n", "truncated", "tokens_cached", "generation_settings/samplers"]}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "t_max_prompt_ms"
    And the response's "samplers" is ["top_k", "top_p", "infill"]
    And the response's "truncated" is false
    And the response has no "stop"

  Scenario: /infill gets 501 if the model has no infill tokens
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b"}
      """
    Then the status is 501
    And the error message contains "no fill-in-the-middle tokens"

  Scenario: /infill continues beyond the context size with a context shift
    Given a server whose model supports infill
    When I stream an infill:
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 300, "n_keep": -1, "grammar": "root ::= [a-z] root"}
      """
    Then the status is 200
    And the last event's "truncated" is true
    And the last event's "tokens_predicted" is 300
    And the last event's "generation_settings.n_keep" is -1

  Scenario: input_prefix longer than the context is rejected
    Given a server whose model supports infill
    When I stream an infill with a prefix of 300 characters
    Then the status is 400
    And the error message contains "too long for the context of 256"

  Scenario Outline: the error names the invalid field: <body>
    When I post to "/infill" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | body                                                       | param        | message     |
      | {"input_prefix": "a"}                                      | input_suffix | required    |
      | {"input_prefix": 1, "input_suffix": "b"}                   | input_prefix | not of type |
      | {"input_prefix": "a", "input_suffix": "b", "top_p": 2}     | top_p        | maximum     |
      | {"input_prefix": "a", "input_suffix": "b", "input_extra": "x"}               | input_extra               | not of type |
      | {"input_prefix": "a", "input_suffix": "b", "input_extra": ["x"]}             | input_extra.0             | not of type |
      | {"input_prefix": "a", "input_suffix": "b", "input_extra": [{}]}              | input_extra.0.text        | required    |
      | {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"text": "t", "filename": 1}]} | input_extra.0.filename | not of type |
      | {"input_prefix": "a", "input_suffix": "b", "prompt": 1}                      | prompt                    | not of type |
