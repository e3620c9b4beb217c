Feature: Fill the gap between two texts
  For editors: what stands between the code before the cursor and the code after it.

  Scenario: The gap is filled as its tokens are continued
    Given a server whose model fills gaps
    When I stream an infill:
      """
      {"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n\nprint(1)", "n_predict": 12, "temperature": 0}
      """
    Then the status is 200
    And every piece but the last has only content and stop
    And the last piece's "tokens_predicted" is 12
    And the last piece's "stop" is true
    And a completion of the last piece's prompt gives the same text
    And that prompt has 3 tokens that no text spells, the first in front and the last at the end

  Scenario: Names of special tokens in code are code
    Given a server whose model fills gaps
    When I stream an infill:
      """
      {"input_prefix": "<PRE>", "input_suffix": "<MID>", "n_predict": 1}
      """
    Then that prompt has 3 tokens that no text spells, the first in front and the last at the end

  Scenario: Everything of a completion is taken
    Given a server whose model fills gaps
    When I stream an infill:
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3, "grammar": "root ::= \"xyz\""}
      """
    Then the status is 200
    And the pieces' text contains "xyz"

  Scenario: Whole on request, a stream without one
    Given a server whose model fills gaps
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3, "regex": "[xyz]{9}", "stream": false}
      """
    Then the status is 200
    And the header "content-type" is "application/json; charset=utf-8"
    And the answer's "tokens_predicted" is 3
    And the answer's "prompt" is [257, 97, 258, 98, 259]
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3}
      """
    Then the header "content-type" is "text/event-stream"

  Scenario: What begins to fill the gap stands behind the middle token
    Given a server whose model fills gaps
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "prompt": "c", "n_predict": 0, "stream": false}
      """
    Then the answer's "prompt" is [257, 97, 258, 98, 259, 99]

  Scenario: Other files come before the prefix
    Given a server whose model fills gaps
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "x.rs", "text": "yz"}], "n_predict": 0, "stream": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "input_extra.0.filename"
    And the answer's "prompt" is [10, 10, 45, 45, 45, 32, 115, 110, 105, 112, 112, 101, 116, 32, 45, 45, 45, 10, 10, 121, 122, 257, 97, 258, 98, 259]

  Scenario: Files that do not fit are left out, the first ones first, and named
    Given a server whose model fills gaps
    When I post an infill whose 3 other files have 100 characters each:
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 8, "ignore_eos": true, "stream": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "input_extra.0"
    And the answer's "tokens_evaluated" is 243
    And the answer's "truncated" is false

  Scenario: The stages that editors ask for
    Given a server whose model fills gaps
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 5, "samplers": ["top_k", "top_p", "infill"], "stream": false,
       "n_indent": 4, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000, "cache_prompt": true,
       "response_fields": ["content", "timings/prompt_n", "truncated", "tokens_cached", "generation_settings/samplers"]}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "t_max_prompt_ms"
    And the answer's "samplers" is ["top_k", "top_p", "infill"]
    And the answer's "truncated" is false
    And the answer has no "stop"

  Scenario: A model without the tokens for it
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b"}
      """
    Then the status is 501
    And the error says "no fill-in-the-middle tokens"

  Scenario: A filling that outgrows the context goes on
    Given a server whose model fills gaps
    When I stream an infill:
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 300, "n_keep": -1, "grammar": "root ::= [a-z] root"}
      """
    Then the status is 200
    And the last piece's "truncated" is true
    And the last piece's "tokens_predicted" is 300
    And the last piece's "generation_settings.n_keep" is -1

  Scenario: What does not fit has no gap
    Given a server whose model fills gaps
    When I stream an infill of 300 characters before the gap
    Then the status is 400
    And the error says "more than the context of 256"

  Scenario Outline: Bad input is told by its place: <body>
    When I post to "/infill" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"

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
