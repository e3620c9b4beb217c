Feature: Invalid HTTP requests

  Scenario Outline: a request body that is not valid JSON gets 400: <body>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error message contains "JSON"

    Examples:
      | path                 | body              |
      | /completion          | {"prompt": "a     |
      | /tokenize            | content           |
      | /v1/chat/completions | {"messages": [}   |

  Scenario: a request body of 10 MB gets 413
    When I post 10 MB to "/completion"
    Then the status is 413
    When I post 10 MB to "/v1/chat/completions"
    Then the status is 413

  Scenario: an unknown path gets 404, an unsupported method 405
    When I get "/nowhere"
    Then the status is 404
    And the response's "error.type" is "not_found_error"
    When I get "/completion"
    Then the status is 405
    And the header "allow" is "POST"

  Scenario: a GET request from another origin gets 403
    When I get "/props" from the origin "https://elsewhere.example"
    Then the status is 403

  Scenario: a CORS-simple POST request from another origin gets 403
    When I post to "/completion" from the origin "https://elsewhere.example":
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the status is 403
    And the error message contains "origin 'https://elsewhere.example' is not allowed (see --cors-origin)"

  Scenario: a POST request from a localhost origin is allowed
    When I post to "/completion" from the origin "http://localhost:3000":
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the status is 200
    And the header "access-control-allow-origin" is "http://localhost:3000"

  Scenario: a Host header that is not allowed gets 403 (DNS rebinding)
    When I get "/props" with the host "rebound.example"
    Then the status is 403
    And the error message contains "host 'rebound.example' is not allowed (see --allowed-hosts)"

  Scenario Outline: Content-Encoding <encoding> gets 415 on <path>
    When I post to "<path>" with the Content-Encoding "<encoding>":
      """
      {"content": "Hello", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
      """
    Then the status is 415
    And the error message contains "the encoding <reported> is not supported: send the body without Content-Encoding"

    Examples:
      | path                 | encoding       | reported |
      | /tokenize            | gzip           | gzip  |
      | /v1/chat/completions | deflate        | deflate |
      | /v1/messages         | br             | br    |
      | /v1/responses        | identity, zstd | zstd  |

  Scenario: Content-Encoding identity is accepted
    When I post to "/tokenize" with the Content-Encoding "identity":
      """
      {"content": "Hello"}
      """
    Then the status is 200
