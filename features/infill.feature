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

  Scenario: It streams in any case
    Given a server whose model fills gaps
    When I post to "/infill" as "application/json":
      """
      {"input_prefix": "a", "input_suffix": "b", "n_predict": 3, "stream": false}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "stream"
    And the header "content-type" is "text/event-stream"

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
