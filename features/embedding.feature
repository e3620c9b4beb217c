Feature: Embeddings API
  An embedding is a vector pooled from the hidden states of a text's tokens.

  Scenario: /embedding returns a normalized vector
    When I request embeddings:
      """
      {"content": "The capital of France is Paris."}
      """
    Then the status is 200
    And the response's "embedding" has 576 entries
    And the embedding's norm is 1

  Scenario: embeddings of texts with similar meaning are closer
    When I request embeddings:
      """
      {"content": ["The cat sits on the mat.", "A cat is sitting on a mat.", "The price of crude oil fell by three percent."]}
      """
    Then the status is 200
    And the response has 3 entries
    And the response's "2.index" is 2
    And embedding 0 is nearer to 1 than to 2

  Scenario: an embedding does not depend on the other inputs
    When I request embeddings:
      """
      {"content": ["The cat sits on the mat.", [504, 2644], "The cat sits on the mat."]}
      """
    Then embeddings 0 and 2 are the same
    And embedding "The cat sits on the mat." alone gives the same vector as entry 0

  Scenario: the pooling type of the model file is used: mean
    Given a server whose model uses mean pooling
    When I request embeddings:
      """
      {"content": ["abc", "ab"]}
      """
    Then the status is 200
    And the embedding's norm is 1
    And embedding "abc" alone gives the same vector as entry 0

  Scenario: /embeddings is an alias of /embedding
    When I post to "/embeddings" as "application/json":
      """
      {"content": "Hello", "user": "me"}
      """
    Then the status is 200
    And the response's "embedding" has 576 entries
    And the header "x-ortolan-ignored" is "user"

  Scenario: /v1/embeddings returns a list with token usage
    When I post to "/v1/embeddings" as "application/json":
      """
      {"input": ["hello", "world"], "model": "GPT-4", "encoding_format": "float", "dimensions": 576}
      """
    Then the status is 200
    And the response's "object" is "list"
    And the response's "data.1.object" is "embedding"
    And the response's "data.1.index" is 1
    And the response's "data.1.embedding" has 576 entries
    And the response's "model" is "smollm2"
    And the response's "usage.prompt_tokens" is 2
    And the response's "usage.total_tokens" is 2

  Scenario: /v1/embeddings returns the embedding of a single text in Base64
    When I post to "/v1/embeddings" as "application/json":
      """
      {"input": "hello", "encoding_format": "base64"}
      """
    Then the status is 200
    And the response has no "data.1"
    And the response's "data.0.embedding" is the Base64 form of the native embedding of "hello"

  Scenario Outline: /v1/embeddings names the invalid field in the error: <body>
    When I post to "/v1/embeddings" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | body                                           | param           | message                             |
      | {}                                             | input           | required                            |
      | {"input": []}                                  | input           | less than 1 item                    |
      | {"input": "a", "dimensions": 64}               | dimensions      | 64 is not supported: use 576         |
      | {"input": "a", "encoding_format": "int8"}      | encoding_format | int8                                |

  Scenario: /embedding of a generative model gets 501 without --embedding
    Given a server with all optional endpoints disabled
    When I post to "/embedding" as "application/json":
      """
      {"content": "Hello"}
      """
    Then the status is 501
    And the error message contains "start it with --embedding"

  Scenario Outline: /embedding names the invalid field in the error: <body>
    When I post to "/embedding" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | body                                | param      | message                |
      | {}                                  | content    | required               |
      | {"content": 1}                      | content    | not of type            |
      | {"content": [70000]}                |            | token 70000            |
      | {"content": ["a", 7, [8]]}          | content    | cannot contain prompts |
      | {"content": "a", "image_data": [{}]} | image_data | not supported yet     |

  Scenario: /embedding rejects a text longer than the context
    When I request the embedding of 600 words
    Then the status is 400
    And the error message contains "too long for the context of 512"

  Scenario: texts, prompt objects, and token ids can be combined in one request
    Given a server with an embedding model
    When I post to "/v1/embeddings" as "application/json":
      """
      {"input": ["bird", {"prompt_string": "bird"}, [101, 4743]]}
      """
    Then the status is 200
    And the response's "data" has 3 entries
    When I post to "/embedding" as "application/json":
      """
      {"content": {"prompt_string": "bird"}}
      """
    Then the status is 200
    When I post to "/embedding" as "application/json":
      """
      {"input": "bird", "embd_normalize": 1}
      """
    Then the status is 200
    And the absolute values of the embedding add up to 1

  Scenario Outline: missing content or an invalid embd_normalize is rejected: <body>
    Given a server with an embedding model
    When I post to "/embedding" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | body                                    | param          |
      | {}                                      | content        |
      | {"content": "a", "embd_normalize": -2}  | embd_normalize |
      | {"content": null}                       | content        |
      | {"content": {"prompt_string": 1}}       | content.prompt_string |
