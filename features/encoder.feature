Feature: A model that only makes embeddings
  An encoder sees all of a text at once. It writes nothing.

  Background:
    Given a server with a model of embeddings

  Scenario: Texts of one meaning are nearer to each other than to another
    When I embed:
      """
      {"content": ["How many birds did you count this morning?", "What number of birds have you seen today?",
        "The quarterly tax return is due on Friday."]}
      """
    Then the status is 200
    And the answer's "0.embedding" has 384 entries
    And the embedding 0 is nearer to 1 than to 2

  Scenario: A text's vector does not depend on those beside it, or on how it was asked for
    When I embed:
      """
      {"content": ["ortolan", [101, 2030, 3406, 5802, 102], "A small bird sings in the hedge.", "ortolan"]}
      """
    Then the embeddings 0 and 1 are the same
    And the embeddings 0 and 3 are the same
    And embedding "ortolan" alone gives the same as 0

  Scenario: More texts than there are places are embedded one after the other
    When I embed 300 texts as with OpenAI's API
    Then the status is 200
    And the answer's "data" has 300 entries
    And the answer's "usage.prompt_tokens" is 900

  Scenario: A text that is longer than the model knows places for
    When I embed 600 words
    Then the status is 400
    And the error says "the prompt has 602 tokens, more than the context of 512 has room for"

  Scenario: Token ids and back
    When I tokenize:
      """
      {"content": "Ortolans sing [SEP]"}
      """
    Then the answer's "tokens" is [2030, 3406, 5802, 2015, 6170, 102]
    When I detokenize:
      """
      {"tokens": [2030, 3406, 5802, 2015, 6170, 102]}
      """
    Then the answer's "content" is " ortolans sing[SEP]"

  Scenario Outline: It does not write: <path>
    When I post to "<path>" as "application/json":
      """
      {<body>}
      """
    Then the status is 501
    And the error says "this model is an encoder: it makes embeddings and does not go on with texts"

    Examples:
      | path                 | body                                           |
      | /completion          | "prompt": "a"                                  |
      | /v1/chat/completions | "messages": [{"role": "user", "content": "a"}] |
      | /v1/completions      | "prompt": "a"                                  |
      | /v1/messages         | "max_tokens": 1, "messages": [{"role": "user", "content": "a"}] |
      | /v1/responses        | "input": "a"                                   |

  Scenario: It has nothing to keep
    When I save the slot 0 as "encoder.bin"
    Then the status is 501

  Scenario: It needs no --embedding
    Given a server with a model of embeddings that answers nothing that can be switched off
    When I embed:
      """
      {"content": "ortolan"}
      """
    Then the status is 200
