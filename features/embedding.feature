Feature: What a text is to the model
  As a vector, made of the hidden states of its tokens.

  Scenario: A text
    When I embed:
      """
      {"content": "The capital of France is Paris."}
      """
    Then the status is 200
    And the answer's "embedding" has 576 entries
    And its length is 1

  Scenario: Texts of one meaning are nearer to each other than to another
    When I embed:
      """
      {"content": ["The cat sits on the mat.", "A cat is sitting on a mat.", "The price of crude oil fell by three percent."]}
      """
    Then the status is 200
    And the answer has 3 entries
    And the answer's "2.index" is 2
    And the embedding 0 is nearer to 1 than to 2

  Scenario: A text's vector does not depend on how it was asked for
    When I embed:
      """
      {"content": ["The cat sits on the mat.", [504, 2644], "The cat sits on the mat."]}
      """
    Then the embeddings 0 and 2 are the same
    And embedding "The cat sits on the mat." alone gives the same as 0

  Scenario: The mean of all tokens is what a file can ask for
    Given a server whose model takes the mean of all tokens
    When I embed:
      """
      {"content": ["abc", "ab"]}
      """
    Then the status is 200
    And its length is 1
    And embedding "abc" alone gives the same as 0

  Scenario: The path /embeddings is another name
    When I post to "/embeddings" as "application/json":
      """
      {"content": "Hello", "user": "me"}
      """
    Then the status is 200
    And the answer's "embedding" has 576 entries
    And the header "x-ortolan-ignored" is "user"

  Scenario: As with OpenAI's API
    When I post to "/v1/embeddings" as "application/json":
      """
      {"input": ["hello", "world"], "model": "GPT-4", "encoding_format": "float", "dimensions": 576}
      """
    Then the status is 200
    And the answer's "object" is "list"
    And the answer's "data.1.object" is "embedding"
    And the answer's "data.1.index" is 1
    And the answer's "data.1.embedding" has 576 entries
    And the answer's "model" is "smollm2"
    And the answer's "usage.prompt_tokens" is 2
    And the answer's "usage.total_tokens" is 2

  Scenario: One text with OpenAI's API is a list of one, in Base64 on request
    When I post to "/v1/embeddings" as "application/json":
      """
      {"input": "hello", "encoding_format": "base64"}
      """
    Then the status is 200
    And the answer has no "data.1"
    And the answer's "data.0.embedding" is the Base64 of what "hello" is natively

  Scenario Outline: Bad input with OpenAI's API: <body>
    When I post to "/v1/embeddings" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"

    Examples:
      | body                                           | param           | message                             |
      | {}                                             | input           | required                            |
      | {"input": []}                                  | input           | less than 1 item                    |
      | {"input": "a", "dimensions": 64}               | dimensions      | 64 is not what this model gives: 576 |
      | {"input": "a", "encoding_format": "int8"}      | encoding_format | int8                                |

  Scenario: It is switched on
    Given a server that answers nothing that can be switched off
    When I post to "/embedding" as "application/json":
      """
      {"content": "Hello"}
      """
    Then the status is 501
    And the error says "start it with --embedding"

  Scenario Outline: Bad input is told by its place: <body>
    When I post to "/embedding" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"

    Examples:
      | body                                | param      | message                |
      | {}                                  | content    | required               |
      | {"content": 1}                      | content    | not of type            |
      | {"content": [70000]}                |            | token 70000            |
      | {"content": ["a", 7, [8]]}          | content    | has no prompts in it   |
      | {"content": "a", "image_data": [{}]} | image_data | not built yet         |

  Scenario: A text that is longer than the context
    When I embed 600 words
    Then the status is 400
    And the error says "more than the context of 512"

  Scenario: Texts as objects, texts and ids beside each other
    Given a server with a model of embeddings
    When I post to "/v1/embeddings" as "application/json":
      """
      {"input": ["bird", {"prompt_string": "bird"}, [101, 4743]]}
      """
    Then the status is 200
    And the answer's "data" has 3 entries
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
    And the numbers of the embedding add up to 1

  Scenario Outline: A text is needed, and a norm that is known: <body>
    Given a server with a model of embeddings
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
