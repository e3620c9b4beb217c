Feature: API keys
  A server with API keys requires one of them on protected routes.

  Background:
    Given a server with the API keys "first" and "second"

  Scenario: a request without an API key gets 401
    When I get "/v1/models"
    Then the status is 401
    And the error message contains "Invalid API Key"
    And the response's "error.code" is "invalid_api_key"
    And the response's "error.type" is "authentication_error"
    And the header "www-authenticate" is "Bearer"

  Scenario Outline: the header <name> with '<value>' gets <status>
    When I get "/props" with "<value>" as the header "<name>"
    Then the status is <status>

    Examples:
      | name          | value         | status |
      | Authorization | Bearer first  | 200    |
      | Authorization | Bearer second | 200    |
      | Authorization | bearer first  | 200    |
      | Authorization | Bearer third  | 401    |
      | Authorization | Basic first   | 401    |
      | X-Api-Key     | second        | 200    |
      | X-Api-Key     | seconds       | 401    |

  Scenario: a request without an API key gets 401 before its body is parsed
    When I post to "/completion" as "application/json":
      """
      {"prompt":
      """
    Then the status is 401

  Scenario Outline: /health without an API key omits the slots: <path>
    When I get "<path>"
    Then the status is 200
    And the response's "status" is "ok"
    And the response has no "slots"

    Examples:
      | path                                      |
      | /health?include_slots                     |
      | /v1/health?include_slots=1                |
      | /health?fail_on_no_slot&include_slots=    |

  Scenario: /health with an API key lists the slots
    When I get "/health?include_slots" with "Bearer first" as the header "Authorization"
    Then the status is 200
    And the response's "slots.3.id" is 3

  Scenario Outline: <path> requires no API key
    When I get "<path>"
    Then the status is 200

    Examples:
      | path          |
      | /health       |
      | /docs         |
      | /openapi.json |
