Feature: Text to tokens and back

  Scenario: Tokens of a text
    When I tokenize:
      """
      {"content": "Hello world"}
      """
    Then the status is 200
    And the answer's "tokens" is [19556, 905]

  Scenario: Names of special tokens stand for them, unless they are text
    When I tokenize:
      """
      {"content": "<|im_end|>"}
      """
    Then the answer's "tokens" is [2]
    When I post to "/tokenize" as "application/json":
      """
      {"content": "<|im_end|>", "parse_special": false}
      """
    Then the answer's "tokens" is not [2]

  Scenario: Every recorded text has the recorded tokens, and they are its text again
    Then all recorded texts are tokenized and put together again as recorded

  Scenario: A text of nothing
    When I tokenize:
      """
      {"content": ""}
      """
    Then the answer's "tokens" is []

  Scenario: A token that does not exist
    When I detokenize:
      """
      {"tokens": [1, 999999]}
      """
    Then the status is 400
    And the error says "token 999999"
