Feature: Keys
  A server with keys answers those who have one.

  Background:
    Given a server with the keys "first" and "second"

  Scenario: Without a key
    When I get "/v1/models"
    Then the status is 401
    And the error says "Invalid API Key"
    And the answer's "error.code" is "invalid_api_key"
    And the answer's "error.type" is "authentication_error"
    And the header "www-authenticate" is "Bearer"

  Scenario Outline: <value> as <name>
    When I get "/props" with "<value>" as "<name>"
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

  Scenario: Nothing is read of a body that comes without a key
    When I post to "/completion" as "application/json":
      """
      {"prompt":
      """
    Then the status is 401

  Scenario Outline: Health without a key tells the state and no slots: <path>
    When I get "<path>"
    Then the status is 200
    And the answer's "status" is "ok"
    And the answer has no "slots"

    Examples:
      | path                                      |
      | /health?include_slots                     |
      | /v1/health?include_slots=1                |
      | /health?fail_on_no_slot&include_slots=    |

  Scenario: Health with a key tells the slots
    When I get "/health?include_slots" with "Bearer first" as "Authorization"
    Then the status is 200
    And the answer's "slots.3.id" is 3

  Scenario Outline: <path> is open to everybody
    When I get "<path>"
    Then the status is 200

    Examples:
      | path          |
      | /health       |
      | /docs         |
      | /openapi.json |
