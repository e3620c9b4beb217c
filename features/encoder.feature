Feature: Encoder models
  An encoder attends to the whole text at once. It computes embeddings and generates no text.

  Background:
    Given a server with an embedding model

  Scenario: embeddings of texts with similar meaning are closer
    When I request embeddings:
      """
      {"content": ["How many birds did you count this morning?", "What number of birds have you seen today?",
        "The quarterly tax return is due on Friday."]}
      """
    Then the status is 200
    And the response's "0.embedding" has 384 entries
    And embedding 0 is nearer to 1 than to 2

  Scenario: an embedding depends neither on the other inputs nor on whether its input is text or token ids
    When I request embeddings:
      """
      {"content": ["ortolan", [101, 2030, 3406, 5802, 102], "A small bird sings in the hedge.", "ortolan"]}
      """
    Then embeddings 0 and 1 are the same
    And embeddings 0 and 3 are the same
    And embedding "ortolan" alone gives the same vector as entry 0

  Scenario: /v1/embeddings accepts more texts than there are slots
    When I request the embeddings of 300 texts with OpenAI's API
    Then the status is 200
    And the response's "data" has 300 entries
    And the response's "usage.prompt_tokens" is 900

  Scenario: an input longer than the model's maximum length is rejected
    When I request the embedding of 600 words
    Then the status is 400
    And the error message contains "the prompt of 602 tokens is too long for the context of 512 tokens"

  Scenario: a text is tokenized and detokenized
    When I tokenize:
      """
      {"content": "Ortolans sing [SEP]"}
      """
    Then the response's "tokens" is [2030, 3406, 5802, 2015, 6170, 102]
    When I detokenize:
      """
      {"tokens": [2030, 3406, 5802, 2015, 6170, 102]}
      """
    Then the response's "content" is " ortolans sing[SEP]"

  Scenario Outline: text generation with an encoder gets 501: <path>
    When I post to "<path>" as "application/json":
      """
      {<body>}
      """
    Then the status is 501
    And the error message contains "text generation is not supported: this model is an encoder and only computes embeddings"

    Examples:
      | path                 | body                                           |
      | /completion          | "prompt": "a"                                  |
      | /v1/chat/completions | "messages": [{"role": "user", "content": "a"}] |
      | /v1/completions      | "prompt": "a"                                  |
      | /v1/messages         | "max_tokens": 1, "messages": [{"role": "user", "content": "a"}] |
      | /v1/responses        | "input": "a"                                   |

  Scenario: saving a slot of an encoder gets 501
    When I save slot 0 as "encoder.bin"
    Then the status is 501

  Scenario: an encoder serves embeddings without --embedding
    Given a server with an embedding model and all optional endpoints disabled
    When I request embeddings:
      """
      {"content": "ortolan"}
      """
    Then the status is 200
