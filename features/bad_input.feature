Feature: Bad input gets a clear error and nothing is lost

  Scenario Outline: No JSON: <body>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error says "JSON"

    Examples:
      | path                 | body              |
      | /completion          | {"prompt": "a     |
      | /tokenize            | content           |
      | /v1/chat/completions | {"messages": [}   |

  Scenario: A body of 10 MB
    When I post 10 MB to "/completion"
    Then the status is 413
    When I post 10 MB to "/v1/chat/completions"
    Then the status is 413

  Scenario: Paths and methods that are not there
    When I get "/nowhere"
    Then the status is 404
    And the answer's "error.type" is "not_found_error"
    When I get "/completion"
    Then the status is 405
    And the header "allow" is "POST"

  Scenario: A web page of somebody else's
    When I get "/props" from the origin "https://elsewhere.example"
    Then the status is 403

  Scenario: A web page of somebody else's that sends what needs no permission
    When I post to "/completion" from the origin "https://elsewhere.example":
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the status is 403
    And the error says "origin 'https://elsewhere.example' is not allowed (see --cors-origin)"

  Scenario: A web page of this machine
    When I post to "/completion" from the origin "http://localhost:3000":
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the status is 200
    And the header "access-control-allow-origin" is "http://localhost:3000"

  Scenario: A host name that was made to point here
    When I get "/props" with the host "rebound.example"
    Then the status is 403
    And the error says "host 'rebound.example' is not allowed (see --allowed-hosts)"

  Scenario Outline: A body with the Content-Encoding <encoding> to <path>
    When I post to "<path>" with the Content-Encoding "<encoding>":
      """
      {"content": "Hello", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
      """
    Then the status is 415
    And the error says "the encoding <named> is not supported: send the body without Content-Encoding"

    Examples:
      | path                 | encoding       | named |
      | /tokenize            | gzip           | gzip  |
      | /v1/chat/completions | deflate        | deflate |
      | /v1/messages         | br             | br    |
      | /v1/responses        | identity, zstd | zstd  |

  Scenario: A body that is not encoded may say so
    When I post to "/tokenize" with the Content-Encoding "identity":
      """
      {"content": "Hello"}
      """
    Then the status is 200
