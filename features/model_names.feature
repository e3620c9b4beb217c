Feature: Model names and OpenAI error codes

  Scenario: any model name is accepted by default
    When I request a chat completion:
      """
      {"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
      """
    Then the status is 200
    And the response's "model" is "smollm2"

  Scenario Outline: --strict-model-names rejects an unknown model name: <path>
    Given a server with strict model names
    When I post to "<path>" as "application/json":
      """
      {"model": "gpt-5", <body>}
      """
    Then the status is 404
    And the response's "error.code" is "model_not_found"
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

  Scenario: error.code is the status on native endpoints and a string on OpenAI's endpoints
    When I get "/nowhere"
    Then the response's "error.code" is 404
    When I get "/v1/nowhere"
    Then the response's "error.code" is "unknown_url"
    When I get "/v1/models/gpt-5"
    Then the response's "error.code" is "model_not_found"
    When I post to "/v1/chat/completions" as "text/plain":
      """
      {"messages": [{"role": "user", "content": "a"}]}
      """
    Then the status is 415
    And the response's "error.code" is null

  Scenario: a prompt longer than the context gets context_length_exceeded
    When I request a chat completion with a message of 5000 words
    Then the status is 400
    And the response's "error.code" is "context_length_exceeded"
