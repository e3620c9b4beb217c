Feature: Texts that follow a grammar
  In llama.cpp's notation; what does not follow it cannot be chosen.

  Scenario: One of two words
    When I ask for a completion:
      """
      {"prompt": "Is the sky blue? Answer yes or no:", "n_predict": 20, "temperature": 1.5, "grammar": "root ::= \" yes\" | \" no\""}
      """
    Then the status is 200
    And the answer's "content" is one of " yes" or " no"
    And the answer's "stopped_eos" is true
    And the answer's "generation_settings.grammar" contains "root"

  Scenario: The same as a stream
    When I ask for a completion:
      """
      {"prompt": "Three numbers:", "n_predict": 40, "seed": 6, "grammar": "root ::= num \",\" num \",\" num\nnum ::= \" \" [0-9]{1,4}"}
      """
    Then the answer's "content" follows " [0-9]{1,4}, [0-9]{1,4}, [0-9]{1,4}"
    And asking again gives the same text
    And asking for it as a stream gives the same text

  Scenario: A grammar that comes back to itself
    When I ask for a completion:
      """
      {"prompt": "Parentheses:", "n_predict": 60, "seed": 2, "temperature": 1.5, "grammar": "root ::= \"(\" root* \")\""}
      """
    Then the answer's "content" follows "[()]+"

  Scenario: Two hundred objects, however wild the choice
    When I ask for 200 continuations at a temperature of 1.5 by the grammar of JSON objects
    Then all that are complete are valid

  Scenario: Grammar, bias and penalties together
    When I ask for a completion:
      """
      {"prompt": "Answer:", "n_predict": 10, "temperature": 0, "logit_bias": [[" yes", false]], "repeat_penalty": 1.5, "grammar": "root ::= \" yes\" | \" no\""}
      """
    Then the answer's "content" is one of " yes" or " no"

  Scenario: A grammar that other options make impossible
    When I ask for a completion:
      """
      {"prompt": "Answer:", "n_predict": 10, "ignore_eos": true, "logit_bias": [["a", false]], "grammar": "root ::= \"a\""}
      """
    Then the status is 400
    And the error's param is "grammar"
    And the error says "the grammar cannot be followed any further: every token that could follow is forbidden by other options"

  Scenario: Tokens by their numbers and names
    When I ask for a completion:
      """
      {"prompt": "Once", "n_predict": 10, "temperature": 1.5, "seed": 3, "grammar": "root ::= <[253]> !<|im_end|> \"!\""}
      """
    Then the status is 200
    And the answer's "content" follows " .*!"

  Scenario: The limit of tokens may cut it
    When I ask for a completion:
      """
      {"prompt": "Letters:", "n_predict": 3, "grammar": "root ::= [a-z]{100}"}
      """
    Then the answer's "stopped_limit" is true
    And the answer's "content" follows "[a-z]+"

  Scenario Outline: What is no grammar is refused with its place: <grammar>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "grammar": "<grammar>"}
      """
    Then the status is 400
    And the error's param is "grammar"
    And the error says "Failed to parse grammar"
    And the error says "<problem>"

    Examples:
      | grammar              | problem                                    |
      | root                 | line 1, column 5: ::= follows              |
      | root ::= x           | line 1, column 10: there is no rule named x |
      | rout ::= [a]         | there is no rule named root                |
      | root ::= [a          | this class does not end                    |
      | root ::= [a]{3,1}    | not more than 3                            |
