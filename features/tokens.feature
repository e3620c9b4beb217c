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

  Scenario Outline: Nothing has no tokens: <body> to <path>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 200
    And the answer's "<field>" is <nothing>

    Examples:
      | path        | body              | field   | nothing |
      | /tokenize   | {}                | tokens  | []      |
      | /tokenize   | {"content": null} | tokens  | []      |
      | /detokenize | {}                | content | ""      |
      | /detokenize | {"tokens": []}    | content | ""      |

  Scenario: Tokens of texts and ids
    When I post to "/tokenize" as "application/json":
      """
      {"content": ["Hello", 7, " world"]}
      """
    Then the answer's "tokens" is [19556, 7, 905]

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

  Scenario: Tokens with their texts
    When I tokenize:
      """
      {"content": "Hello 🐦", "with_pieces": true}
      """
    Then the answer's "tokens.0.id" is 19556
    And the answer's "tokens.0.piece" is "Hello"
    And the answer's "tokens.1.piece" is [32, 240, 159]

  Scenario: The token that begins a text is added on request, if the model wants one
    When I tokenize:
      """
      {"content": "Hello", "add_special": true}
      """
    Then the answer's "tokens" is [19556]

  Scenario: A conversation as the template writes it
    When I post to "/apply-template" as "text/plain":
      """
      {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]}
      """
    Then the status is 200
    And the answer's "prompt" is "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

  Scenario: An assistant message at the end is continued
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]}
      """
    Then the answer's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "continue_final_message": true}
      """
    Then the answer's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "continue_final_message": true, "add_generation_prompt": false}
      """
    Then the answer's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"

  Scenario: A conversation without an open message
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "add_generation_prompt": false}
      """
    Then the answer's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel<|im_end|>\n"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "add_generation_prompt": false, "continue_final_message": false}
      """
    Then the answer's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel<|im_end|>\n"

  Scenario: A new message behind an assistant message
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "continue_final_message": false}
      """
    Then the answer's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel<|im_end|>\n<|im_start|>assistant\n"

  Scenario Outline: No message to continue: <fields>
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "<role>", "content": "Hi"}], "continue_final_message": true<fields>}
      """
    Then the status is 400
    And the error's param is "continue_final_message"

    Examples:
      | role      | fields                          |
      | user      |                                 |
      | assistant | , "add_generation_prompt": true |

  Scenario: A conversation of nothing
    When I post to "/apply-template" as "application/json":
      """
      {"messages": []}
      """
    Then the status is 400
    And the error's param is "messages"

  Scenario Outline: Bad input is told by its place: <body> to <path>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"

    Examples:
      | path        | body                                   | param         | message      |
      | /tokenize   | {"content": 1}                         | content       | not of type  |
      | /tokenize   | {"content": "a", "parse_special": "a"} | parse_special | not of type  |
      | /tokenize   | {"content": "a", "add_special": 1}     | add_special   | not of type  |
      | /tokenize   | {"content": "a", "with_pieces": 1}     | with_pieces   | not of type  |
      | /detokenize | {"tokens": "a"}                        | tokens        | not of type  |
      | /detokenize | {"tokens": [1, 1.5]}                   | tokens.1      | not of type  |
      | /detokenize | {"tokens": [-1]}                       | tokens.0      | minimum of 0 |

  Scenario Outline: <prompt> and the token that begins a text
    Given a server whose model wants a token before each text
    When I ask for a completion:
      """
      {"prompt": <prompt>, "n_predict": 0}
      """
    Then the answer's "tokens_evaluated" is <tokens>

    Examples:
      | prompt         | tokens |
      | "abc"          | 4      |
      | ["a", 98, "c"] | 4      |
      | [97, "bc"]     | 3      |
      | [97, 98, 99]   | 3      |

  Scenario: One that is there already is not put there twice
    Given a server whose model wants a token before each text
    When I ask for a completion:
      """
      {"prompt": "<s>abc", "n_predict": 0}
      """
    Then the answer's "tokens_evaluated" is 4

  Scenario: Behind a system prompt no text begins
    Given a server whose model wants a token before each text
    When I ask for a completion:
      """
      {"prompt": "abc", "n_predict": 0, "system_prompt": "xy"}
      """
    Then the answer's "tokens_evaluated" is 6

  Scenario: It is none of a text's tokens, but on request
    Given a server whose model wants a token before each text
    When I tokenize:
      """
      {"content": "abc"}
      """
    Then the answer's "tokens" is [97, 98, 99]
    When I tokenize:
      """
      {"content": "abc", "add_special": true}
      """
    Then the answer's "tokens" is [260, 97, 98, 99]
