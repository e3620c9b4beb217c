Feature: Grammar-constrained output
  GBNF, the grammar notation of llama.cpp; tokens that the grammar does not allow cannot be sampled.

  Scenario: grammar restricts the text to one of two words
    When I request a completion:
      """
      {"prompt": "Is the sky blue? Answer yes or no:", "n_predict": 20, "temperature": 1.5, "grammar": "root ::= \" yes\" | \" no\""}
      """
    Then the status is 200
    And the response's "content" is one of " yes" or " no"
    And the response's "stopped_eos" is true
    And the response's "generation_settings.grammar" contains "root"

  Scenario: a stream and a non-streaming response follow grammar
    When I request a completion:
      """
      {"prompt": "Three numbers:", "n_predict": 40, "seed": 6, "grammar": "root ::= num \",\" num \",\" num\nnum ::= \" \" [0-9]{1,4}"}
      """
    Then the response's "content" matches " [0-9]{1,4}, [0-9]{1,4}, [0-9]{1,4}"
    And repeating the request gives the same text
    And streaming the same request gives the same text

  Scenario: a recursive grammar is followed
    When I request a completion:
      """
      {"prompt": "Parentheses:", "n_predict": 60, "seed": 2, "temperature": 1.5, "grammar": "root ::= \"(\" root* \")\""}
      """
    Then the response's "content" matches "[()]+"

  Scenario: 200 completions at temperature 1.5 follow a JSON grammar
    When I request 200 completions at temperature 1.5 with a grammar of JSON objects
    Then all completions that end by themselves are valid

  Scenario: grammar, logit_bias, and repeat_penalty work together
    When I request a completion:
      """
      {"prompt": "Answer:", "n_predict": 10, "temperature": 0, "logit_bias": [[" yes", false]], "repeat_penalty": 1.5, "grammar": "root ::= \" yes\" | \" no\""}
      """
    Then the response's "content" is one of " yes" or " no"

  Scenario: a grammar gets 400 if other options forbid all of its tokens
    When I request a completion:
      """
      {"prompt": "Answer:", "n_predict": 10, "ignore_eos": true, "logit_bias": [["a", false]], "grammar": "root ::= \"a\""}
      """
    Then the status is 400
    And the error's param is "grammar"
    And the error message contains "the grammar cannot be followed any further: every token that could follow is forbidden by other options"

  Scenario: a grammar can reference tokens by id and by text
    When I request a completion:
      """
      {"prompt": "Once", "n_predict": 10, "temperature": 1.5, "seed": 3, "grammar": "root ::= <[253]> !<|im_end|> \"!\""}
      """
    Then the status is 200
    And the response's "content" matches " .*!"

  Scenario: n_predict can end the text before the grammar is complete
    When I request a completion:
      """
      {"prompt": "Letters:", "n_predict": 3, "grammar": "root ::= [a-z]{100}"}
      """
    Then the response's "stopped_limit" is true
    And the response's "content" matches "[a-z]+"

  Scenario Outline: an invalid grammar is rejected with the position of the error: <grammar>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "grammar": "<grammar>"}
      """
    Then the status is 400
    And the error's param is "grammar"
    And the error message contains "Failed to parse grammar"
    And the error message contains "<problem>"

    Examples:
      | grammar              | problem                                    |
      | root                 | line 1, column 5: expected ::=             |
      | root ::= x           | line 1, column 10: rule not found: x        |
      | rout ::= [a]         | rule not found: root                       |
      | root ::= [a          | this character class has no closing ]      |
      | root ::= [a]{3,1}    | the maximum is less than the minimum 3     |
