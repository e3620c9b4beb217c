Feature: OpenAI's words, and the model's name

  Scenario: Any name is answered, by the model that is served
    When I chat:
      """
      {"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
      """
    Then the status is 200
    And the answer's "model" is "smollm2"

  Scenario Outline: A server that is strict about names: <path>
    Given a server that knows its model's name alone
    When I post to "<path>" as "application/json":
      """
      {"model": "gpt-5", <body>}
      """
    Then the status is 404
    And the answer's "error.code" is "model_not_found"
    And the error's param is "model"
    When I post to "<path>" as "application/json":
      """
      {"model": "smollm2", <body>}
      """
    Then the status is 200

    Examples:
      | path                 | body                                                          |
      | /v1/chat/completions | "messages": [{"role": "user", "content": "a"}], "max_tokens": 1 |
      | /v1/completions      | "prompt": "a", "max_tokens": 1                                |
      | /v1/responses        | "input": "a", "max_output_tokens": 1                          |
      | /v1/embeddings       | "input": "a"                                                  |

  Scenario: The native routes say the status, OpenAI's a word
    When I get "/nowhere"
    Then the answer's "error.code" is 404
    When I get "/v1/nowhere"
    Then the answer's "error.code" is "unknown_url"
    When I get "/v1/models/gpt-5"
    Then the answer's "error.code" is "model_not_found"
    When I post to "/v1/chat/completions" as "text/plain":
      """
      {"messages": [{"role": "user", "content": "a"}]}
      """
    Then the status is 415
    And the answer's "error.code" is null

  Scenario: A prompt that is too long, in OpenAI's words
    When I chat about 5000 words
    Then the status is 400
    And the answer's "error.code" is "context_length_exceeded"
